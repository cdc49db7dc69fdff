"""Leaks known from papers and other implementations, planted one at a time: the check that watches for it must fail.

A wrong result shows a wrong protocol; a leak shows in nothing but the views. So each check is proven to see its leak.
"""

import hmac
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from sharetorch.mpc import operations, randomness, testing
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.kernels.bit_planes import Planes
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import (
    arithmetic,
    opening,
    planes,
    private_compare,
    scaled_truncation,
    securenn,
    securenn_paper,
    sorting,
    tables,
    truncation,
)
from sharetorch.mpc.provider import OneTime
from sharetorch.mpc.randomness import PairSecret, Stream
from tests.mpc import mutation, views

Plant = Callable[[pytest.MonkeyPatch], None]


def require_nothing_seen(name: str) -> None:
    transcript = views.watch(name, -5)
    for rank in views.receivers(transcript):
        views.require_nothing_seen(transcript, rank)


def require_blind_helper(name: str = "non_negative") -> None:
    views.require_blind_helper(views.helper_view(views.watch(name, 5)))


def require_blind_helper_of_fixed_bits() -> None:
    session = testing.session(seed=1)
    views.require_blind_helper(views.helper_view(views.compare_fixed(session, 5, 4, 4096)))


def require_independent_runs() -> None:
    session = testing.session(seed=1)
    transcripts = []
    for _ in range(2):
        with session.record() as transcript:
            views.CASES["multiply"].run(session, -5)
        transcripts.append([m for m in transcript if m.label == "masked operand"])
    views.require_independent_runs(*transcripts, 1)


def require_independent_bits(name: str = "relu by tables") -> None:
    transcript = views.watch(name, -5)
    for rank in views.receivers(transcript):
        views.require_independent_bits(transcript, rank)


def require_independent_comparisons() -> None:
    session = testing.session(2, "tables", seed=1)
    transcripts = []
    for _ in range(2):
        with session.record() as transcript:
            views.CASES["relu by tables"].run(session, -5)
        transcripts.append(list(transcript))
    for rank in (0, 1):
        views.require_independent_runs(*transcripts, rank)


def require_fresh_outputs() -> None:
    session = testing.session(seed=1)
    number = views.put_equal(session, 7, views.COUNT)
    with session.record() as transcript:
        session.reveal(number)
    views.require_nothing_seen([m for m in transcript if m.sender == 0], DRIVER)


def spread_first(value: Tensor) -> Tensor:
    """The first element everywhere."""
    return value.reshape(-1)[:1].expand(value.numel()).reshape(value.shape).clone()


def one_mask(module: Any) -> Plant:
    """PySyft 0.2.9: one mask for all elements of a tensor."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        draw = module.random_shares

        def drawn_once(party: Party, label: str, shape: Any) -> OneTime[Tensor]:
            return OneTime(label, spread_first(draw(party, label, shape).take()))

        monkeypatch.setattr(module, "random_shares", drawn_once)

    return plant


def steps_without_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = operations.hidden_product
    monkeypatch.setattr(operations, "hidden_product", lambda *arguments: hidden(*arguments[:-1], arguments[-1] * 0))


def one_mask_for_both_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[int, Tensor] = {}
    draw = opening.random_shares

    def drawn_once(party: Party, label: str, shape: Any) -> OneTime[Tensor]:
        fresh = draw(party, label, shape).take()
        return OneTime(label, kept.setdefault(party.rank, fresh))

    monkeypatch.setattr(opening, "random_shares", drawn_once)


def masks_without_top_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """PySyft 0.2.9: masks from [0, 2^63)."""
    words = Stream.words
    monkeypatch.setattr(Stream, "words", lambda self, shape: words(self, shape) & ((1 << 63) - 1))


def streams_of_the_first_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A triple used twice: every operation draws what the first one drew."""

    def stream(self: PairSecret, operation: int, *label: str) -> Stream:
        return Stream(self._secret[:16])

    monkeypatch.setattr(PairSecret, "stream", stream)


def no_refresh_of_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published PrivateCompare."""
    weaken_symbols(monkeypatch, z=0)


def no_scale_of_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    weaken_symbols(monkeypatch, s=1)


def no_rotation_of_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF Encrypted and SPU: no permutation."""
    weaken_symbols(monkeypatch, rotation=0)


def weaken_symbols(monkeypatch: pytest.MonkeyPatch, **fixed: int) -> None:
    """Replace some of the common randomness s, z, rotation by constants."""
    mask = private_compare._mask_symbols
    order = ("s", "z", "rotation")

    def weak(x: Any, t: Any, direction: Any, s: Any, z: Any, rotation: Any, rank: int, bits: int) -> Any:
        given = dict(zip(order, (s, z, rotation), strict=True))
        used = [given[name] * 0 + fixed[name] if name in fixed else given[name] for name in order]
        return mask(x, t, direction, *used, rank, bits)

    monkeypatch.setattr(private_compare, "_mask_symbols", weak)


def no_refresh_before_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "refresh", lambda party, x: x)


Change = Callable[[Planes, int], Planes]
"""From drawn planes, shape (blocks, planes, 8), and their number, to what is used instead."""


def change_planes(module: Any, function: str, change: Change) -> Plant:
    """Planes that all members draw, weakened at all of them alike."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        draw = getattr(planes, function)

        def weak(party: Party, *given: Any) -> Any:
            drawn = draw(party, *given)
            words = drawn.take() if isinstance(drawn, OneTime) else drawn
            changed = change(words.reshape(-1, given[-1], 8), given[-1]).reshape(-1)
            return OneTime("weak", changed) if isinstance(drawn, OneTime) else changed

        monkeypatch.setattr(module, function, weak)

    return plant


def first_element_everywhere(words: Planes, _: int) -> Planes:
    """Each mask bit of the first element for all elements."""
    every = np.uint64(0) - (words[:1, :, :1] & np.uint64(1))
    return np.broadcast_to(every, words.shape).copy()


def every_second_element(words: Planes, _: int) -> Planes:
    """What one element has, for the next one as well."""
    even = words & np.uint64(0x5555_5555_5555_5555)
    return even | even << np.uint64(1)


def masks_of_the_first_level(words: Planes, count: int) -> Planes:
    """The second level's masks are among the first level's: 27 and 6 of them, and one for the result."""
    assert count == 34
    words[:, 27:33] = words[:, :6]
    return words


def no_mask_of_the_result(words: Planes, _: int) -> Planes:
    words[:, -1] = 0
    return words


def one_stream_for_every_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, tables and products begin at the same place of the stream."""
    draw, kept = planes._draw, {}

    def again(party: Party, peer: int, label: str, count: int, number: int) -> Planes:
        words = draw(party, peer, label, count, number)
        first = kept.setdefault((party.operation, *sorted((party.rank, peer))), words.copy())
        return np.resize(first, words.shape)

    monkeypatch.setattr(planes, "_draw", again)


def eight_bits_for_each_element(words: Planes, count: int) -> Planes:
    """All planes of an element from a seed of 8 bits."""
    return words[:, np.arange(count) % 8]


def mutate(module: Any, function: str, correct: str, wrong: str) -> Plant:
    return lambda monkeypatch: mutation.plant(monkeypatch, module, function, correct, wrong)


def short_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index blinded by r in [0, n): the helper sees index + r, not reduced mod n."""
    correct = "uniform((count,), party.ring)"
    mutation.plant(monkeypatch, securenn_paper, "derivative_of_max_pool", correct, f"{correct} & (n - 1)")


LEAKS: dict[str, tuple[Plant, Callable[[], None]]] = {
    "one mask for a tensor in products": (one_mask(opening), lambda: require_nothing_seen("multiply")),
    "one mask for a tensor in truncations": (one_mask(truncation), lambda: require_nothing_seen("truncate")),
    "one mask for all steps": (one_mask(scaled_truncation), lambda: require_nothing_seen("descend, without terms")),
    "steps without the mask of a product": (steps_without_mask, lambda: require_nothing_seen("descend, without terms")),
    "one mask for both operands": (one_mask_for_both_operands, lambda: require_nothing_seen("multiply")),
    "masks without their top bit": (masks_without_top_bit, lambda: require_nothing_seen("truncate")),
    "streams used again": (streams_of_the_first_operation, require_independent_runs),
    "no refresh of what the helper dealt": (no_refresh_of_symbols, require_blind_helper_of_fixed_bits),
    "no scaling": (no_scale_of_symbols, require_blind_helper_of_fixed_bits),
    "no rotation": (no_rotation_of_symbols, require_blind_helper),
    "one direction for a tensor": (
        mutate(securenn, "non_negative", '"beta").bits(count)', '"beta").bits(8)[:1].repeat(count)'),
        require_blind_helper,
    ),
    "one direction for a tensor, as published": (
        mutate(securenn_paper, "compute_msb", '"beta").bits(count)', '"beta").bits(8)[:1].repeat(count)'),
        lambda: require_blind_helper("non_negative as published"),
    ),
    "one r for a tensor in ShareConvert": (
        mutate(securenn_paper, "_blind", ".words(a.shape)", ".words((1,)).expand(a.shape)"),
        lambda: require_nothing_seen("non_negative as published"),
    ),
    "an index blinded by less than the ring": (short_rotation, lambda: require_nothing_seen("derivative_of_max_pool")),
    "no refresh of the index": (
        mutate(securenn_paper, "derivative_of_max_pool", "+ party.zero_share((count,))", ""),
        lambda: require_nothing_seen("derivative_of_max_pool"),
    ),
    "one mask for a tensor in comparisons by tables": (
        one_mask(opening),
        lambda: require_nothing_seen("non_negative by tables"),
    ),
    "one mask for a tensor at each node": (
        change_planes(tables, "random_planes", first_element_everywhere),
        lambda: require_nothing_seen("non_negative by tables"),
    ),
    "the masks of an element for the next one": (
        change_planes(tables, "random_planes", every_second_element),
        lambda: require_nothing_seen("non_negative by tables"),
    ),
    "the tables of an element for the next one": (
        change_planes(planes, "_draw", every_second_element),
        lambda: require_nothing_seen("relu by tables"),
    ),
    "the masks of one level for the next one": (
        change_planes(tables, "random_planes", masks_of_the_first_level),
        require_independent_bits,
    ),
    "no mask of the result": (change_planes(tables, "random_planes", no_mask_of_the_result), require_independent_bits),
    "one stream for masks, tables and products": (
        one_stream_for_every_draw,
        lambda: require_nothing_seen("relu by tables"),
    ),
    "tables used again": (streams_of_the_first_operation, require_independent_comparisons),
    "tables from a short seed": (
        change_planes(planes, "_draw", eight_bits_for_each_element),
        lambda: require_independent_bits("equality by tables"),
    ),
    "one mask for a tensor in exchanges": (
        one_mask(opening),
        lambda: require_nothing_seen("sort and unsort by tables"),
    ),
    "the bits of exchanges open": (
        mutate(
            sorting,
            "sort",
            "bits.append(chosen.bit.data)",
            'bits.append((await party.open("bits", [chosen.bit.data]), chosen.bit.data)[1])',
        ),
        lambda: require_nothing_seen("sort and unsort by tables"),
    ),
    "gradients exchanged in the clear": (
        mutate(
            sorting,
            "unsort",
            "party.ring.subtract(flowing[lows], flowing[highs]))",
            'party.ring.subtract(flowing[lows], flowing[highs])); await party.open("gradients", [difference.data])',
        ),
        lambda: require_nothing_seen("sort and unsort by tables"),
    ),
    "no zero-sharing before get": (no_refresh_before_get, require_fresh_outputs),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check = LEAKS[name]
    check()
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="uniform"):
        check()


@pytest.mark.parametrize(
    ("plant", "word"),
    [(no_refresh_of_symbols, "refresh"), (no_scale_of_symbols, "scale"), (no_rotation_of_symbols, "rotation")],
)
def test_each_protection_of_the_comparison_is_watched_by_itself(
    plant: Plant, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=word):
        require_blind_helper_of_fixed_bits()


def test_leaks_leave_results_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for all of this: a test of results passes."""
    for plant in (one_mask(opening), no_refresh_of_symbols, no_rotation_of_symbols, no_refresh_before_get):
        plant(monkeypatch)
    session = testing.session()
    (value, _) = session.command("relu", testing.put_value(session, [-2, -1, 0, 1, 2]), outputs=2)
    assert session.reveal(value).tolist() == [0, 0, 0, 1, 2]


KEYS = 1 << 18


def derived_keys(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """As many keys as meet a second time with probability 1 - e^-8 among 2^32."""
    keys: set[bytes] = set()

    class Noted:
        def __init__(self, key: bytes) -> None:
            keys.add(key)

        def successor(self, number: int) -> "Noted":
            return self

    monkeypatch.setattr(randomness, "Stream", Noted)
    secret = PairSecret(testing.ReplayedEntropy(1)(32))
    for number in range(1, KEYS + 1):
        secret.stream(number * randomness.OPERATIONS_PER_KEY)
    return keys


def test_no_two_of_many_keys_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(derived_keys(monkeypatch)) == KEYS


def test_keys_of_32_bits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's SecAgg+: the key is folded to 32 bits."""

    class ShortDigest:
        @staticmethod
        def digest(key: bytes, message: bytes, name: str) -> bytes:
            full = hmac.digest(key, message, name)
            folded = bytes(
                a ^ b ^ c ^ d for a, b, c, d in zip(full[:4], full[4:8], full[8:12], full[12:16], strict=True)
            )
            return folded * 8

    monkeypatch.setattr(randomness, "hmac", ShortDigest)
    assert len(derived_keys(monkeypatch)) < KEYS
