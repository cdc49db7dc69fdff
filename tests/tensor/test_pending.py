"""Commands that wait for the next one: what they save, and that nobody sees a difference."""

import gc
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch.mpc.errors import ObjectGoneError, ShapeError
from sharetorch.mpc.protocols import tables

PROTOCOLS = pytest.mark.parametrize("protocol", ["tables", "securenn", "securenn-paper", "fss"])


class Share:
    """Sharing with the same members under one protocol."""

    def __init__(self, protocol: str) -> None:
        names = ("waiting alice", "waiting bob", "waiting provider")
        self.alice, self.bob, self.provider = (st.VirtualWorker(id=name) for name in names)
        self.protocol = protocol

    def __call__(self, x: Any, **options: Any) -> Any:
        options |= {"crypto_provider": self.provider, "protocol": self.protocol}
        return x.share(self.alice, self.bob, **options)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-16, 17, shape, generator=torch.Generator().manual_seed(seed)) / 8


def operations(session: Any) -> dict[str, int]:
    return {name: record.traffic.operations for name, record in session.costs.by_operation.items()}


def close(found: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.get().detach(), expected.detach(), atol=1e-3, rtol=0)


@PROTOCOLS
def test_layers_give_what_torch_gives(protocol: str) -> None:
    share = Share(protocol)
    torch.manual_seed(1)
    plain = nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, bias=False), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)),
    )
    x = numbers(2, 2, 8, 8)
    expected = plain(x)
    expected.square().sum().backward()
    gradients = [p.grad for p in plain.parameters()]
    plain.zero_grad()
    shared = share(plain)
    found = shared(share(x))
    close(found, expected)
    found.square().sum().backward()
    for p, gradient in zip(shared.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad.get(), gradient, atol=2e-2, rtol=1e-2)


def test_truncation_and_relu_share_an_opening() -> None:
    share = Share("tables")
    x, w, b = share(numbers(8, 8)), share(numbers(8, 8, seed=1)), share(numbers(8, seed=2))
    with x.session.costs.listen() as heard:
        y = torch.relu(F.linear(x, w, b))
    record = heard.by_operation["rectified_product"].traffic
    assert record.operations == 1 and set(heard.by_operation) == {"local", "rectified_product"}
    short = tables.truncated_relu_cost(64, 2, tables.SHORT_DIGITS)
    assert record.rounds == 1 + short.rounds == 5
    assert record.sent_by(0) == 2 * 8 * 64 + short.party_bytes
    close(y, torch.relu(F.linear(numbers(8, 8), numbers(8, 8, seed=1), numbers(8, seed=2))))


@PROTOCOLS
def test_both_results_are_there(protocol: str) -> None:
    share = Share(protocol)
    x, w = share(numbers(4, 6)), share(numbers(5, 6, seed=1))
    product = F.linear(x, w)
    rectified = torch.relu(product)
    expected = F.linear(numbers(4, 6), numbers(5, 6, seed=1))
    close(rectified, expected.relu())
    close(product, expected)
    close(product + rectified, expected + expected.relu())


def test_maxima_go_before_relu() -> None:
    share = Share("tables")
    x = share(numbers(2, 3, 8, 8), requires_grad=True)
    plain = numbers(2, 3, 8, 8).requires_grad_()
    with x.session.costs.listen() as heard:
        y = F.max_pool2d(torch.relu(x), 2)
    assert heard.by_operation["relu"].traffic.operations == 1
    sent = heard.by_operation["relu"].traffic.as_cost(2)
    assert sent.rounds == 4 and sent.party_bytes < 13 * 2 * 3 * 16
    expected = F.max_pool2d(torch.relu(plain), 2)
    close(y, expected)
    weights = numbers(2, 3, 4, 4, seed=3)
    (y * share(weights)).sum().backward()
    (expected * weights).sum().backward()
    close(x.grad, plain.grad)


@PROTOCOLS
def test_a_relu_that_was_passed_over_is_still_there(protocol: str) -> None:
    share = Share(protocol)
    x = share(numbers(1, 1, 4, 4), requires_grad=True)
    plain = numbers(1, 1, 4, 4).requires_grad_()
    rectified = torch.relu(x)
    pooled = F.max_pool2d(rectified, 2)
    expected = torch.relu(plain)
    close(pooled, F.max_pool2d(expected, 2))
    close(rectified, expected)
    (rectified.sum() + pooled.sum()).backward()
    (expected.sum() + F.max_pool2d(expected, 2).sum()).backward()
    close(x.grad, plain.grad)


@PROTOCOLS
def test_what_was_written_since_changes_nothing(protocol: str) -> None:
    share = Share(protocol)
    x, w = share(numbers(1, 1, 4, 4)), share(numbers(3, 16, seed=1))
    expected = torch.relu(numbers(1, 1, 4, 4))
    rectified = torch.relu(x)
    pooled = F.max_pool2d(rectified, 2)
    product = F.linear(x.reshape(1, 16), w)
    w.mul_(0)
    x.zero_()
    close(rectified, expected)
    close(pooled, F.max_pool2d(expected, 2))
    close(product, numbers(1, 16) @ numbers(3, 16, seed=1).t())


def test_written_to_through_a_view() -> None:
    share = Share("tables")
    x = share(numbers(4, 4))
    rectified = torch.relu(x)
    x[0] = 5.0
    close(rectified, numbers(4, 4).relu())
    x.add_(torch.relu(x))
    assert x[0].get().tolist() == [10.0] * 4


def test_what_nobody_asks_for_is_not_computed() -> None:
    share = Share("tables")
    x, w = share(numbers(4, 6)), share(numbers(5, 6, seed=1))
    before = operations(x.session)
    torch.relu(F.linear(x, w))
    assert {**before, "local": before.get("local", 0) + 1} == operations(x.session)


def test_looking_at_costs_gives_what_waits() -> None:
    share = Share("securenn")
    x, w = share(numbers(4, 6)), share(numbers(5, 6, seed=1))
    with st.profile() as profile:
        y = F.linear(x, w)
    assert any(row.name == "bilinear" for row in profile.rows()), profile
    with x.session.record() as transcript, x.session.costs.listen() as heard:
        z = torch.relu(y)
    assert transcript and heard.by_operation["relu"].traffic.operations == 1
    close(z, F.linear(numbers(4, 6), numbers(5, 6, seed=1)).relu())


def test_an_error_comes_each_time_the_result_is_asked_for() -> None:
    share = Share("tables")
    x, w = share(numbers(4, 6)), share(numbers(5, 6, seed=1))
    y = F.linear(x, w)
    share.alice.store.pop(x.handle.number)
    for _ in range(2):
        with pytest.raises(ObjectGoneError):
            y.get()
    close(w, numbers(5, 6, seed=1))


def test_an_error_of_two_commands_in_one_comes_from_both() -> None:
    share = Share("tables")
    x, w = share(numbers(4, 6)), share(numbers(5, 6, seed=1))
    y = F.linear(x, w)
    z = torch.relu(y)
    share.alice.store.pop(x.handle.number)
    for result in (z, y, z, y):
        with pytest.raises(ObjectGoneError):
            result.get()


def test_nothing_is_left_behind() -> None:
    share = Share("tables")
    x, w = share(numbers(1, 1, 4, 4)), share(numbers(3, 4, seed=1))
    gc.collect()
    for held in (False, True):
        before = len(share.alice.store)
        rectified = torch.relu(x)
        y = torch.relu(F.linear(F.max_pool2d(rectified, 2).reshape(1, 4), w))
        if held:
            rectified.get()
            y.get()
        del rectified, y
        assert len(share.alice.store) == before


def test_shapes_are_checked_at_once() -> None:
    share = Share("tables")
    with pytest.raises(ShapeError, match=r"test_pending\.py"):
        F.linear(share(numbers(4, 6)), share(numbers(5, 7)))
    with pytest.raises(ShapeError, match=r"test_pending\.py"):
        F.linear(share(numbers(4, 6)), share(numbers(5, 6)), share(numbers(3)))


def test_in_debugging_nothing_waits() -> None:
    share = Share("tables")
    x, w = share(numbers(4, 6)), share(numbers(5, 6, seed=1))
    with st.debug():
        y = torch.relu(F.linear(x, w))
        assert "check_range" in operations(x.session)
    close(y, F.linear(numbers(4, 6), numbers(5, 6, seed=1)).relu())


def test_a_command_given_with_another_is_not_given_again() -> None:
    """Something else, such as a traceback, may keep it alive while the session gives all that waits."""
    share = Share("tables")
    x, w = share(numbers(4, 4)), share(numbers(4, 4, seed=1))
    with x.session.costs.listen() as heard:
        product = F.linear(x, w)
        kept = product.handle.pending
        rectified = torch.relu(product)
        x.session.sync()
    close(rectified, torch.relu(F.linear(numbers(4, 4), numbers(4, 4, seed=1))))
    assert kept is not None and heard.by_operation["rectified_product"].traffic.operations == 1
