"""Several products and their truncations in the same rounds."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import kernels, testing
from sharetorch.mpc.channel import Message
from sharetorch.mpc.errors import ModulusError
from sharetorch.mpc.kernels import reference
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import products as beaver
from sharetorch.mpc.protocols.bilinear import BilinearMap, Convolution, Geometry, MatrixProduct, Product
from sharetorch.mpc.protocols.products import Term, products, products_cost
from sharetorch.mpc.randomness import Stream
from sharetorch.mpc.ring import PowerRing, ring_of
from sharetorch.mpc.share import ArithmeticShare
from tests.mpc.views import put_equal, require_independent_runs, require_nothing_seen, require_same_views

BITS = 16
UNIT = 1 << BITS
GEOMETRY = Geometry((2, 3, 8, 8), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1)
Places = Sequence[tuple[BilinearMap, int, int, int]]


async def run_products(party: Party, *shares: ArithmeticShare, terms: Places) -> Any:
    return tuple(await products(party, [Term(f, shares[i], shares[j], d) for f, i, j, d in terms]))


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-(1 << 20), 1 << 20, shape, generator=torch.Generator().manual_seed(seed))


def compute(parties: int, operands: Sequence[Tensor], terms: Places) -> list[Tensor]:
    session = testing.session(parties, seed=parties)
    numbers = [testing.put_value(session, operand) for operand in operands]
    held = testing.run(session, run_products, *numbers, terms=terms)
    return [sum(parts[k].data for parts in held[:parties]) for k in range(len(terms))]


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_every_term_is_its_product_divided(parties: int) -> None:
    operands = [values(6, 5), values(5, 7, seed=1), values(7, 5, seed=2), values(6, 5, seed=3)]
    terms = [
        (MatrixProduct(), 0, 1, UNIT),
        (MatrixProduct(), 1, 2, 1),
        (Product(), 0, 3, 1000),
        (Product(), 0, 0, UNIT),
    ]
    found = compute(parties, operands, terms)
    for (function, i, j, divisor), result in zip(terms, found, strict=True):
        exact = function(ring_of(None), operands[i], operands[j])
        error = result - torch.div(exact, divisor, rounding_mode="floor")
        assert set(error.unique().tolist()) <= ({0} if divisor == 1 else {0, 1})


@pytest.mark.parametrize("function", [Product(), MatrixProduct(), Convolution(GEOMETRY)])
def test_every_map_shares_its_mask_with_the_truncation(function: BilinearMap) -> None:
    shapes = {Product: ((4, 1), (1, 5)), MatrixProduct: ((2, 3, 4), (2, 4, 5))}
    left, right = shapes.get(type(function), (GEOMETRY.image, GEOMETRY.kernel))
    operands = [values(*left), values(*right, seed=1)]
    (found,) = compute(2, operands, [(function, 0, 1, UNIT)])
    error = found - (function(ring_of(None), *operands) >> BITS)
    assert set(error.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("bits", [4, 6])
def test_a_whole_small_ring(bits: int) -> None:
    """All x and y whose product stays in the domain, in all sharings of x."""
    ring, limit = PowerRing(bits), 1 << (bits - 2)
    splits = testing.all_splits(range(-limit, limit), ring)
    session = testing.session(ring=ring, seed=bits)
    for y in range(-3, 4):
        fits = (splits.values * y >= -limit) & (splits.values * y < limit)
        x, first = splits.values[fits].repeat(8), splits.first[fits].repeat(8)
        numbers = [testing.put_against(session, x, first), testing.put_value(session, torch.full_like(x, y))]
        held = testing.run(session, run_products, *numbers, terms=[(Product(), 0, 1, 2)])
        found = ring.reduce(sum(parts[0].data for parts in held[:2]))
        assert set((found - (x * y >> 1)).tolist()) <= {0, 1}, y


def test_what_is_sent_equals_what_is_declared() -> None:
    for parties in (2, 3, 4):
        session = testing.session(parties)
        x, y, z = (testing.put_value(session, values(*shape)) for shape in ((3, 4), (4, 5), (3, 4)))
        terms = [(MatrixProduct(), 0, 1, UNIT), (Product(), 0, 2, UNIT), (Product(), 2, 2, 1)]
        testing.require_cost(session, products_cost(44, 27, 12, parties), run_products, x, y, z, terms=terms)
        testing.require_cost(session, products_cost(0, 27, 12, parties), run_products, x, y, z, terms=terms)
        testing.require_cost(session, products_cost(0, 0, 12, parties), run_products, x, y, z, terms=terms[2:])


def test_a_divisor_beyond_the_ring_is_refused_before_anything_is_sent() -> None:
    session = testing.session()
    x = testing.put_value(session, [1, 2])
    with session.record() as transcript, pytest.raises(ModulusError, match="divides by"):
        session.command("bilinear", x, x, function=Product(), divisor=1 << 63)
    assert not transcript


COUNT = 1 << 16


def watch(value: int, seed: int = 1, parties: int = 2) -> list[Message]:
    session = testing.session(parties, seed=seed)
    x, y = put_equal(session, value, COUNT), put_equal(session, 3, COUNT)
    with session.record() as transcript:
        testing.run(session, run_products, x, y, terms=[(Product(), 0, 1, UNIT), (Product(), 0, 0, 4)])
    return list(transcript)


@pytest.mark.parametrize("parties", [2, 3])
def test_members_see_nothing(parties: int) -> None:
    for rank in range(parties):
        first, other = watch(7, parties=parties), watch(-5, seed=1, parties=parties)
        require_nothing_seen(first, rank)
        require_same_views(first, other, rank)
        require_independent_runs(first, watch(7, seed=2, parties=parties), rank)
    assert all(message.receiver != parties for message in first), "the provider receives nothing"


def one_mask_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = beaver.random_shares

    def leaking(party: Party, label: str, shape: Any) -> Any:
        return type(made := drawn(party, label, (1,)))(label, made.take().expand(shape).clone())

    monkeypatch.setattr(beaver, "random_shares", leaking)


def no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = beaver.random_shares

    def leaking(party: Party, label: str, shape: Any) -> Any:
        return type(made := drawn(party, label, shape))(label, made.take() * 0)

    monkeypatch.setattr(beaver, "random_shares", leaking)


def top_bit_dealt_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt = beaver.dealt_shares

    async def leaking(party: Party, label: str, shape: Any, value: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if party.is_provider:
                patch.setattr(Stream, "subtract_uniform", lambda stream, x, ring: x)
            return await dealt(party, label, shape, value)

    monkeypatch.setattr(beaver, "dealt_shares", leaking)


@pytest.mark.parametrize("plant", [one_mask_for_all, no_mask, top_bit_dealt_in_the_clear])
def test_a_planted_leak_is_seen(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    seen = watch(7)
    with pytest.raises(AssertionError):
        for rank in (0, 1):
            require_nothing_seen(seen, rank)


def test_a_missing_correction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """r = w instead of w - c."""
    monkeypatch.setattr(beaver, "hidden_product", _without_product)
    (found,) = compute(2, [values(64), values(64, seed=1)], [(Product(), 0, 1, UNIT)])
    error = found - (values(64) * values(64, seed=1) >> BITS)
    assert not set(error.tolist()) <= {0, 1}


_hidden_product = beaver.hidden_product


def _without_product(party: Party, function: BilinearMap, left: Any, right: Any, w: Tensor) -> Tensor:
    return w if party.is_provider else _hidden_product(party, function, left, right, w)


def test_kernels_of_numba_and_torch_agree_on_the_mask() -> None:
    r = values(100) * (1 << 40)
    compiled = torch.from_numpy(kernels.truncation_mask(r.numpy(), BITS))
    assert torch.equal(compiled, reference.truncation_mask(r, BITS))
