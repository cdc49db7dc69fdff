"""Splitting, reconstructing, refreshing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.randomness import fresh_stream
from sharetorch.mpc.ring import Ring, ring_of
from sharetorch.mpc.share import ArithmeticShare, reconstruct, split
from tests.strategies import FIELDS, integer_tensors, party_counts, rings, shapes

SMALL = st.integers(0, 1)


@given(integer_tensors(), party_counts)
def test_reconstructing_a_split_gives_the_tensor_back(x: Tensor, n: int) -> None:
    ring = ring_of(None)
    assert torch.equal(reconstruct(split(x, n, ring, fresh_stream()), ring), x)


@given(integer_tensors(elements=st.integers(-1, 0)), party_counts, rings)
def test_reconstructing_a_split_works_in_every_ring(x: Tensor, n: int, ring: Ring) -> None:
    parts = split(ring.from_integers(x), n, ring, fresh_stream())
    assert torch.equal(ring.to_signed(reconstruct(parts, ring)), x)


@given(shapes, party_counts)
def test_every_share_has_the_shape_of_the_secret(shape: tuple[int, ...], n: int) -> None:
    parts = split(torch.zeros(shape, dtype=torch.int64), n, ring_of(None), fresh_stream())
    assert [part.shape for part in parts] == [shape] * n


@given(integer_tensors(elements=SMALL), party_counts, st.sampled_from([None, *FIELDS]))
def test_refresh_keeps_the_secret(x: Tensor, n: int, modulus: int | None) -> None:
    session = testing.session(n, ring=ring_of(modulus))
    (fresh,) = session.command("refresh", testing.put_value(session, x))
    assert torch.equal(testing.value(session, fresh), x)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_refresh_changes_every_share(n: int) -> None:
    session = testing.session(n, seed=1)
    number = testing.put_value(session, [0, 1, 2, 3])
    (fresh,) = session.command("refresh", number)
    for before, after in zip(testing.shares(session, number), testing.shares(session, fresh), strict=True):
        assert not bool((before == after).any())


def test_distributing_to_one_holder_copies_the_tensor() -> None:
    session = testing.plaintext()
    x = torch.tensor([1, 2, 3])
    number = session.distribute(x)
    x[0] = 9
    assert testing.value(session, number).tolist() == [1, 2, 3]


def test_writing_through_a_view_changes_its_base() -> None:
    base = ArithmeticShare(torch.arange(6).reshape(2, 3))
    base.view(base.data[1]).write(torch.tensor([7, 8, 9]))
    assert base.data.tolist() == [[0, 1, 2], [7, 8, 9]]


def test_writing_notes_a_new_version_at_the_root() -> None:
    base = ArithmeticShare(torch.arange(3))
    base.view(base.data[:1]).write(torch.tensor([5]))
    assert base.root.version == 1


def test_a_share_prints_no_element() -> None:
    assert repr(ArithmeticShare(torch.tensor([8675309]))) == "ArithmeticShare(shape=(1,))"
