"""What each aggregator, the provider and the driver see of updates; planted leaks are caught."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from sharetorch.fl.aggregation import Aggregation, Limits, Rule, Terms, Treatment, rule, uploads
from sharetorch.fl.aggregation.words import integers
from sharetorch.mpc import testing
from sharetorch.mpc.channel import Message
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.mpc.testing import ReplayedEntropy
from tests.mpc import mutation, views
from tests.mpc.views import Array

D = 1 << 15
LARGE = 1 << 12
LIMITS = Limits(8.0, 4, weight=3)
VALUES = [0.0, 1.5, -8.0]


def seen(rank: int, aggregators: int, values: list[float], entropy: Callable[[int], bytes]) -> list[Array]:
    """The words that one aggregator makes of what it gets of each client; all coordinates of a client are equal."""
    terms = Terms(bytes(16), D, aggregators, LIMITS)
    found = []
    for value in values:
        piece = terms.split(torch.full((D,), value), entropy=entropy)[rank]
        if piece.seeded:
            words = np.empty(D, np.int64)
            uploads.expand(piece.contents, piece.round, piece.upload, rank, words)
        else:
            words = np.frombuffer(piece.contents, "<i8")
        found.append(words.view(np.uint64))
    return found


def require_nothing_seen(words: list[Array]) -> None:
    """Every client's words are uniform, so are differences of neighbours, and of clients."""
    vectors = [*words, *(one[1:] - one[:-1] for one in words), *(x - y for x, y in combinations(words, 2))]
    for vector in vectors:
        for name, column, bins in views.pieces("", np.ascontiguousarray(vector)):
            views.require_uniform(column, bins, f"words of an upload, {name}")


@pytest.mark.parametrize(("rank", "aggregators"), [(0, 2), (1, 2), (0, 3), (2, 3)])
def test_aggregators_see_uniform_words(rank: int, aggregators: int) -> None:
    require_nothing_seen(seen(rank, aggregators, VALUES, ReplayedEntropy(rank)))


def test_all_but_one_aggregator_together_see_uniform_words() -> None:
    first, second = (seen(rank, 3, VALUES, ReplayedEntropy(7)) for rank in (0, 1))
    require_nothing_seen([one + other for one, other in zip(first, second, strict=True)])


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_uploaded_does_not_depend_on_the_update(rank: int) -> None:
    first, second = (seen(rank, 2, [value], ReplayedEntropy(seed))[0] for seed, value in enumerate((0.0, -3.25)))
    for (name, one, bins), (_, other, _) in zip(views.pieces("", first), views.pieces("", second), strict=True):
        views.require_same(one, other, bins, name)


class OneSeed(ReplayedEntropy):
    """Fresh ids, and the same seed for every client."""

    def __call__(self, count: int) -> bytes:
        """Ids differ, seeds do not."""
        return bytes(count) if count == uploads.SECRET_BYTES else super().__call__(count)


def test_one_seed_for_two_clients_is_harmless_since_keys_are_bound_to_uploads() -> None:
    require_nothing_seen(seen(0, 2, VALUES, OneSeed(1)))


WORDS = "stream.fill(out)"
LEAKS = {
    "one seed for two clients": ("_LABEL + round + upload", "_LABEL + round"),
    "one word for all coordinates": (WORDS, 'out[:] = stream.bytes(8).view("<i8")'),
    "masks without top bit": (WORDS, WORDS + "; out &= 2**63 - 1"),
    "no mask": (WORDS, "out[:] = 0"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_planted_leaks_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.plant(monkeypatch, uploads, "expand", *LEAKS[name])
    with pytest.raises(AssertionError):
        require_nothing_seen(seen(0, 2, VALUES, OneSeed(1)))


# While a rule runs.

RULES = {
    "median": (rule("median"), {}),
    "trimmed-mean": (rule("trimmed-mean", trim=0.34), {}),
    "sign-vote": (rule("sign-vote"), {}),
    "mean": (rule("mean"), {"bounded": True}),
    "krum": (rule("krum"), {}),
    "fltrust": (rule("fltrust", trusted=torch.ones(D)), {}),
    "mean, clipped": (rule("mean"), {"clip": 3.0}),
    "weighted-mean": (rule("weighted-mean"), {}),
}


def watch(name: str, value: float, parties: int = 2, seed: int = 3) -> list[Message]:
    """All messages between members while a rule runs on clients whose coordinates are all equal."""
    made, options = RULES[name]
    session = testing.session(parties, "tables", seed=seed)
    words = torch.tensor([1.0, value, -2.0]).mul(2**16).long().view(3, 1).expand(3, D).contiguous()
    number = views.put_under_equal_shares(session, words)
    x = SharedTensor(Handle(session, number, LIMITS.encoding), torch.empty(3, D, device="meta"))
    weights = None
    if made.weighted:
        weights = integers(session, views.put_under_equal_shares(session, torch.tensor([1, 3, 2])), (3,))
    with session.record() as transcript:
        kept = Treatment(made, LIMITS, **options)(x, weights)  # type: ignore[arg-type]
    assert kept.shape == (D,)
    return list(transcript)


def large(transcript: list[Message]) -> list[Message]:
    """Messages with so many elements that statistics say something."""
    return [m for m in transcript if all(np.asarray(part).size >= LARGE for part in m.fields)]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("parties", [2, 3])
def test_members_see_nothing_while_a_rule_runs(name: str, parties: int) -> None:
    transcript = large(watch(name, 1.5, parties))
    assert views.receivers(transcript) == set(range(parties))
    for rank in range(parties):
        views.require_nothing_seen(transcript, rank)


@pytest.mark.parametrize("name", RULES)
def test_different_updates_look_the_same(name: str) -> None:
    first, second = (large(watch(name, value, seed=seed)) for seed, value in enumerate((0.0, -7.5)))
    for rank in (0, 1):
        views.require_same_views(first, second, rank)


@pytest.mark.parametrize("name", RULES)
def test_what_is_sent_depends_on_public_values_only(name: str) -> None:
    shapes = [
        [(m.sender, m.receiver, m.label, tuple(tuple(part.shape) for part in m.fields)) for m in watch(name, value)]
        for value in (0.0, -7.5)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", RULES)
def test_the_driver_and_the_provider_receive_nothing(name: str) -> None:
    receivers = {message.receiver for message in watch(name, 1.5)}
    assert DRIVER not in receivers
    assert views.PROVIDER not in receivers


@pytest.mark.parametrize("made", [rule("mean"), rule("median"), rule("krum")], ids=lambda made: made.name)
def test_the_driver_receives_shares_of_the_result_only(made: Rule) -> None:
    session = testing.session(3, "tables", seed=5)
    aggregation = Aggregation(session, D, LIMITS, made, entropy=ReplayedEntropy(5))
    for value in VALUES:
        aggregation.submit(torch.full((D,), value))
    aggregation.close()
    with session.record() as transcript:
        aggregation.open()
    received = [message for message in transcript if message.receiver == DRIVER]
    assert [(m.label, tuple(m.fields[0].shape)) for m in received] == [("output share", (D,))] * 3
    views.require_nothing_seen(received[:2], DRIVER)
