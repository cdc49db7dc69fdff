"""The helper's attack on the published PrivateCompare: without a refresh it reads the secret from one comparison.

P2 dealt both shares of the bits of x. Of P0 and P1 it then receives s_i c_i^(0) and s_i c_i^(1), in a secret order.
The unknown s_i cancels in their ratio, and c_i^(1) / c_i^(0) depends on known shares and on the bits of the comparand t
down to bit i only. So P2 searches t from the top, one bit at a time, and gives up a branch as soon as its ratio is not
among the 64 it has seen. With t comes c = 2y + x, and with c the secret.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.kernels import reference
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import private_compare, securenn
from tests.mpc.views import helper_view

P = 67
BITS = 64
M = 2**64 - 1
RUNS = 100
SEARCH_LIMIT = 200_000
INVERSE = [0, *(pow(i, P - 2, P) for i in range(1, P))]
INFINITE, UNDEFINED = P, P + 1


class Knowledge(NamedTuple):
    """What P2 knows of one comparison: its mask, the bits' shares it dealt, and the symbols it received."""

    x: int
    share0: list[int]
    share1: list[int]
    received: list[tuple[int, int]]


class State(NamedTuple):
    """A guess of the top bits of t: the sums of w so far, and the ratios not yet explained."""

    place: int
    sum0: int
    sum1: int
    t: int
    left: Counter[int]


def ratio(first: int, second: int) -> int:
    """Second / first mod 67."""
    if first == 0:
        return UNDEFINED if second == 0 else INFINITE
    return second * INVERSE[first] % P


def guesses(state: State, known: Knowledge, beta: int) -> Iterator[State]:
    """The guesses of one more bit that explain a ratio seen."""
    k = state.place
    x0, x1 = known.share0[k], known.share1[k]
    sign = -1 if beta else 1
    for bit in (0, 1):
        c0 = (state.sum0 - sign * x0) % P
        c1 = (state.sum1 + 1 + sign * (bit - x1)) % P
        found = ratio(c0, c1)
        if state.left[found] > 0:
            w0, w1 = x0 - 2 * bit * x0, x1 + bit - 2 * bit * x1
            left = state.left.copy()
            left[found] -= 1
            yield State(k + 1, (state.sum0 + w0) % P, (state.sum1 + w1) % P, 2 * state.t + bit, left)


def comparands(known: Knowledge) -> set[int]:
    """All c = t - beta whose ratios are those received."""
    seen = Counter(ratio(d0, d1) for d0, d1 in known.received)
    found: set[int] = set()
    visited = 0
    for beta in (0, 1):
        stack = [State(0, 0, 0, 0, seen)]
        while stack and visited < SEARCH_LIMIT:
            state = stack.pop()
            visited += 1
            if state.place == BITS:
                found.add(state.t - beta)
            else:
                stack.extend(guesses(state, known, beta))
    return found


def secret_behind(c: int, x: int) -> int:
    """From c = 2y + x mod M to a, where y is 2a - 1 up to 2."""
    y = (c - x) * 2**63 % M
    signed = y - M if y > M // 2 else y
    return (signed + 1) // 2


def watch(monkeypatch: pytest.MonkeyPatch, secret: int) -> Knowledge:
    """One comparison of a secret with 0, as P2 sees it."""
    masks: list[int] = []
    deal = securenn._deal_mask

    async def noted(party: Party, *args: Any) -> Any:
        dealt = await deal(party, *args)
        if party.is_provider:
            masks.append(int(dealt[0][0]))
        return dealt

    session = testing.session()
    with monkeypatch.context() as patch:
        patch.setattr(securenn, "_deal_mask", noted)
        found = testing.execute(session, securenn.non_negative, testing.put_value(session, [secret]))
    (bits,) = testing.view_of(found.transcript, 1)["bit shares"]
    share1 = [int(symbol) for symbol in bits.fields[0]]
    x_bits = [masks[0] >> (BITS - 1 - i) & 1 for i in range(BITS)]
    share0 = [(bit - share) % P for bit, share in zip(x_bits, share1, strict=True)]
    view = helper_view(found.transcript)
    return Knowledge(masks[0], share0, share1, list(zip(view.d0[0].tolist(), view.d1[0].tolist(), strict=True)))


def recovered(monkeypatch: pytest.MonkeyPatch, secrets: list[int]) -> list[bool]:
    """Whether P2 reads each secret, up to the last bit that the embedding blurs."""
    hits = []
    for secret in secrets:
        known = watch(monkeypatch, secret)
        hits.append(any(abs(secret_behind(c, known.x) - secret) <= 1 for c in comparands(known)))
    return hits


def some_secrets() -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-(1 << 61), 1 << 61, (RUNS,), generator=generator).tolist()


def test_the_attack_reads_secrets_where_the_refresh_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = private_compare._mask_symbols

    def unrefreshed(x: Any, t: Any, direction: Any, s: Any, z: Any, rotation: Any, rank: int, bits: int) -> Any:
        return mask(x, t, direction, s, 0 * z, rotation, rank, bits)

    monkeypatch.setattr(private_compare, "_mask_symbols", unrefreshed)
    assert sum(recovered(monkeypatch, some_secrets())) >= RUNS - 5


def test_the_attack_reads_nothing_from_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(recovered(monkeypatch, some_secrets())) == 0


def test_the_symbols_are_laid_out_as_the_attack_reads_them() -> None:
    bits = reference.bits_of(torch.tensor([5]), BITS)
    assert bits[0].tolist() == [*[0] * 61, 1, 0, 1]
