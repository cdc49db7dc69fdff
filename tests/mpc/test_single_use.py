"""Streams, masks and correlations serve once."""

import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.errors import CorrelationReusedError, ShapeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import multiply
from sharetorch.mpc.provider import OneTime, dealt_shares, random_shares
from sharetorch.mpc.randomness import SECRET_BYTES, PairSecret, fresh_stream
from sharetorch.mpc.share import ArithmeticShare

SECRET = bytes(range(SECRET_BYTES))


def test_an_operation_has_one_stream_per_pair() -> None:
    secret = PairSecret(SECRET)
    secret.stream(3)
    with pytest.raises(CorrelationReusedError, match="operation 3 was already used"):
        secret.stream(3)


def test_a_stream_ends_when_the_next_operation_begins() -> None:
    secret = PairSecret(SECRET)
    old = secret.stream(3)
    secret.stream(4)
    with pytest.raises(CorrelationReusedError, match="over"):
        old.words((1,))
    with pytest.raises(CorrelationReusedError, match="over"):
        old.successor(5)


def test_an_operation_that_is_over_has_no_stream() -> None:
    secret = PairSecret(SECRET)
    secret.stream(3)
    with pytest.raises(CorrelationReusedError):
        secret.stream(2)


def test_both_holders_draw_the_same() -> None:
    ours, theirs = PairSecret(SECRET), PairSecret(SECRET)
    assert torch.equal(ours.stream(1).words((4,)), theirs.stream(1).words((4,)))


def test_operations_draw_differently() -> None:
    secret = PairSecret(SECRET)
    first, second = secret.stream(1).words((64,)), secret.stream(2).words((64,))
    assert not bool((first == second).any())


def test_draws_from_one_stream_follow_each_other() -> None:
    one, two = PairSecret(SECRET).stream(1), PairSecret(SECRET).stream(1)
    parts = torch.cat([one.words((3,)), one.words((5,))])
    assert torch.equal(parts, two.words((8,)))


def test_every_bit_of_a_secret_changes_its_streams() -> None:
    whole = PairSecret(SECRET).stream(1).words((2,)).tolist()
    for bit in range(8 * SECRET_BYTES):
        changed = bytearray(SECRET)
        changed[bit // 8] ^= 1 << bit % 8
        assert PairSecret(bytes(changed)).stream(1).words((2,)).tolist() != whole


@pytest.mark.parametrize("size", [4, 16, 31, 33])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        PairSecret(bytes(size))


def test_fresh_streams_differ() -> None:
    assert fresh_stream().words((4,)).tolist() != fresh_stream().words((4,)).tolist()


def test_a_correlation_is_taken_once() -> None:
    once = OneTime("triple", torch.zeros(2))
    once.take((2,))
    with pytest.raises(CorrelationReusedError, match="triple was already used"):
        once.take((2,))


@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (3,)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="broadcast"):
        OneTime("mask", torch.zeros(2)).take(shape)


def test_a_correlation_refused_for_its_shape_is_burned() -> None:
    mask = OneTime("mask", torch.zeros(2))
    with pytest.raises(ShapeError):
        mask.take((3,))
    with pytest.raises(CorrelationReusedError):
        mask.take((2,))


def test_random_shares_are_taken_once() -> None:
    async def take_twice(party: Party) -> None:
        mask = random_shares(party, "mask", (3,))
        mask.take((3,))
        mask.take((3,))

    with pytest.raises(CorrelationReusedError):
        testing.run(testing.session(), take_twice)


def test_draws_of_one_operation_differ() -> None:
    async def draw_twice(party: Party) -> torch.Tensor:
        return torch.stack([random_shares(party, "mask", (64,)).take() for _ in range(2)])

    for drawn in testing.run(testing.session(), draw_twice):
        assert not bool((drawn[0] == drawn[1]).any())


@pytest.mark.parametrize("n", [2, 3, 5])
def test_random_shares_add_up_to_what_the_provider_knows(n: int) -> None:
    async def draw(party: Party) -> torch.Tensor:
        return torch.as_tensor(random_shares(party, "mask", (8,)).take())

    *parts, total = testing.run(testing.session(n), draw)
    assert torch.equal(sum(parts), total)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_dealt_shares_add_up_to_what_was_dealt(n: int) -> None:
    async def deal(party: Party) -> torch.Tensor:
        dealt = await dealt_shares(party, "deal", (8,), lambda: torch.arange(8))
        if party.is_provider:
            with pytest.raises(CorrelationReusedError):
                dealt.take()
            return torch.zeros(8)
        return torch.as_tensor(dealt.take())

    *parts, _ = testing.run(testing.session(n), deal)
    assert sum(parts).tolist() == list(range(8))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_zero_shares_add_up_to_zero(n: int) -> None:
    async def draw(party: Party) -> torch.Tensor:
        return torch.zeros(8).long() if party.is_provider else torch.as_tensor(party.zero_share((8,)))

    parts = testing.run(testing.session(n), draw)
    assert not bool(sum(parts).any())
    assert all(bool(part.all()) for part in parts[:n])


def test_a_mask_is_kept_for_the_contents_it_hid_only() -> None:
    session = testing.session()
    x = testing.put_value(session, [1, 2])

    async def masked_version(party: Party, share: ArithmeticShare) -> tuple[int, bool]:
        await multiply(party, share, share)
        share.write(share.data + 0)
        return share.root.version, share.root.masked is None

    assert testing.run(session, masked_version, x) == [(1, True)] * 3
