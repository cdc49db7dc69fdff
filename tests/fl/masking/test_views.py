"""What the server sees is uniform but for the sum; each check fails on a planted leak.

The server knows the masks that it may take off: of dropped clients those in common with others, of survivors their own.
What is left must be uniform and independent between coordinates, clients and rounds. Seeds are fixed; each statistic
raises a false alarm with probability 4e-11.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from sharetorch.fl.masking import keys
from sharetorch.fl.masking.encoding import encode
from sharetorch.fl.masking.keys import Context, KeyPair
from sharetorch.fl.masking.messages import BOX_BYTES
from sharetorch.fl.masking.sharing import join
from sharetorch.mpc.randomness import PairSecret
from tests.fl.masking.federations import ALONE, Run, begun, words
from tests.mpc.views import require_uniform

LENGTH = 1 << 15
IDS = ("client00", "client01", "client02", "client03")
LATE = IDS[3]
Words = NDArray[np.uint64]


def seen(seed: int) -> tuple[Run, dict[str, Words]]:
    """A round in which client03's vector comes too late; what of each vector is left when known masks are off."""
    run = begun(4, LENGTH - 1, seed=seed, trust=ALONE)
    for id in run.updates:
        run.updates[id][0][:] = 7  # type: ignore[index]
    run.advertise().share().mask(without=[LATE]).agree()
    answers = {id: run.clients[id].reveal(request) for id, request in run.requests.items()}
    for id, answer in answers.items():
        run.server.on_reveal(id, answer)
    left = {id: words(message).copy() for id, message in run.masked.items()}
    threshold, context, ids = run.round.parameters.threshold, run.round.context, run.round.ids
    pair = KeyPair(join(run.server._secrets[3], threshold))
    for number in range(3):
        agreed = pair.agree(run.advertised[ids[number]].mask_key)
        mask = context.pair_mask(agreed, (3, LATE), (number, ids[number]))
        keys.add_mask(left[LATE], mask)
        mask = context.pair_mask(agreed, (3, LATE), (number, ids[number]))
        keys.subtract_mask(left[ids[number]], mask)
    late = left[LATE].copy()
    for number in range(3):
        seed_of_self_mask = join(run.server._seeds[number], threshold)
        keys.subtract_mask(left[ids[number]], context.self_mask(seed_of_self_mask, ids[number]))
        left[f"{LATE} less another's mask {number}"] = late.copy()
        keys.subtract_mask(
            left[f"{LATE} less another's mask {number}"], context.self_mask(seed_of_self_mask, ids[number])
        )
    return run, left


def require_nothing(values: Words, what: str) -> None:
    """Every byte is uniform, and so are differences of neighbouring coordinates."""
    for name, part in (("words", values), ("neighbours", values[::2] - values[1::2])):
        for place, column in enumerate(np.ascontiguousarray(part).view(np.uint8).reshape(-1, 8).T):
            require_uniform(column, 256, f"{what}, {name}, byte {place}")


def require_nothing_seen() -> None:
    rounds = [seen(seed)[1] for seed in (1, 2)]
    for number, left in enumerate(rounds):
        for id, values in left.items():
            require_nothing(values, f"round {number}, {id}")
        for one, other in combinations(IDS, 2):
            require_nothing(left[one] - left[other], f"round {number}, {one} - {other}")
            require_nothing(left[one] + left[other], f"round {number}, {one} + {other}")
    for id in rounds[0]:
        require_nothing(rounds[0][id] - rounds[1][id], f"{id} between rounds")


def test_the_server_sees_nothing_but_the_sum() -> None:
    require_nothing_seen()


def test_what_is_left_of_the_survivors_adds_up_to_their_sum() -> None:
    """The check above looks at the right values: the masks that are left cancel, and nothing else does."""
    run, left = seen(1)
    document = run.round.document
    plain = {
        id: encode(*update, document.fraction_bits, document.largest, document.weight)
        for id, update in run.updates.items()
    }
    survivors = sorted(run.updates.keys() - {LATE})
    total = sum((left[id] for id in survivors), np.zeros(LENGTH, np.uint64))
    assert np.array_equal(total, sum((plain[id] for id in survivors), np.zeros(LENGTH, np.uint64)))
    two = left[survivors[0]] + left[survivors[1]]
    assert not np.isin(two, plain[survivors[0]] + plain[survivors[1]]).any()


def skip(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """Masks of one kind are neither added nor taken off."""
    skipped: list[PairSecret] = []
    derive: Callable[..., PairSecret] = vars(Context)[which]

    def derived(self: Context, *arguments: object) -> PairSecret:
        skipped.append(derive(self, *arguments))
        return skipped[-1]

    monkeypatch.setattr(Context, which, derived)
    for name in ("add_mask", "subtract_mask"):
        monkeypatch.setattr(keys, name, without(skipped, vars(keys)[name]))


def without(skipped: list[PairSecret], plain: Callable[[Words, PairSecret], None]) -> Callable[..., None]:
    def apply(vector: Words, source: PairSecret) -> None:
        if not any(source is one for one in skipped):
            plain(vector, source)

    return apply


def no_self_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    skip(monkeypatch, "self_mask")


def no_pair_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    skip(monkeypatch, "pair_mask")


def one_self_mask_for_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "self_mask", lambda self, seed, id: PairSecret(id.encode().ljust(32)))


def one_self_mask_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "self_mask", lambda self, seed, id: PairSecret(self.digest))


def one_pair_mask_for_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def pair_mask(self: Context, agreed: bytes, one: tuple[int, str], other: tuple[int, str]) -> PairSecret:
        return PairSecret("".join(sorted((one[1], other[1]))).encode().ljust(32))

    monkeypatch.setattr(Context, "pair_mask", pair_mask)


def one_word_for_all_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    def mask(vector: Words, source: PairSecret) -> Words:
        return np.full_like(vector, source.stream(0).words((1,)).numpy().view(np.uint64)[0])

    monkeypatch.setattr(keys, "_mask", mask)


def masks_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = keys._mask
    monkeypatch.setattr(keys, "_mask", lambda vector, source: plain(vector, source) >> np.uint64(32))


LEAKS = [
    no_self_mask,
    one_self_mask_for_all_rounds,
    one_self_mask_for_all_clients,
    one_pair_mask_for_all_rounds,
    no_pair_masks,
    one_word_for_all_coordinates,
    masks_of_32_bits,
]


@pytest.mark.parametrize("plant", LEAKS)
def test_a_planted_leak_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round still gives the right sum; only the view is wrong."""
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        require_nothing_seen()


@pytest.mark.parametrize("plant", LEAKS)
def test_a_planted_leak_leaves_the_sum_right(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    run = begun(4, 5)
    found = run.advertise().share().mask(without=[LATE]).agree().reveal()
    survivors = sorted(run.updates.keys() - {LATE})
    assert found.total.tolist() == sum(run.updates[id][0] * run.updates[id][1] for id in survivors).tolist()  # type: ignore[union-attr]


def boxes(rounds: int) -> NDArray[np.uint8]:
    found = []
    for seed in range(rounds):
        run = begun(8, 1, seed=seed).advertise().share()
        found += [box.box for message in run.shares.values() for box in message.boxes]
    return np.frombuffer(b"".join(found), np.uint8)


def test_boxes_of_shares_are_uniform() -> None:
    values = boxes(14)
    assert values.size == 14 * 8 * 7 * BOX_BYTES
    require_uniform(values, 256, "boxes")


def test_boxes_that_are_not_encrypted_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first byte of a share below 2^256 + 297 is 0."""
    monkeypatch.setattr(keys, "seal", lambda key, plain, digest: plain + bytes(16))
    run = begun(8, 1).advertise()
    sent = [box.box for id, message in run.keys.items() for box in run.clients[id].share(message).boxes]
    with pytest.raises(AssertionError):
        require_uniform(np.frombuffer(b"".join(sent), np.uint8), 256, "boxes")
