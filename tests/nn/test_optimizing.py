"""SGD on shared parameters: one command for all of them, and the same numbers."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import sharetorch as st
from sharetorch.mpc.errors import MismatchError

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"weight_decay": 0.1, "momentum": 0.5},
    "maximize": {"maximize": True, "momentum": 0.5},
}


@pytest.fixture
def members() -> dict[str, Any]:
    parties = [st.VirtualWorker(id=name) for name in ("stepping alice", "stepping bob", "stepping provider")]
    return {"parties": parties[:2], "crypto_provider": parties[2]}


def share(x: Any, members: dict[str, Any]) -> Any:
    return x.share(*members["parties"], crypto_provider=members["crypto_provider"])


def models(members: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    return plain, share(copy.deepcopy(plain), members)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Any, y: Any) -> None:
    optimizer.zero_grad()
    ((model(x) - y) ** 2).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_steps_follow_plain_training(options: dict[str, Any], foreach: bool | None, members: dict[str, Any]) -> None:
    plain, shared = models(members)
    x, y = torch.randn(8, 6), torch.randn(8, 2)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, foreach=foreach, **options) for m in (plain, shared)]
    for _ in range(4):
        step(plain, optimizers[0], x, y)
        step(shared, optimizers[1], share(x, members), share(y, members))
    assert all(group["foreach"] is foreach for group in optimizers[1].param_groups)
    assert set(optimizers[1].param_groups[0]) == set(optimizers[0].param_groups[0])
    for ours, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.get().detach(), theirs.detach(), atol=2e-3, rtol=0)


def test_a_step_is_one_command_for_all_parameters(members: dict[str, Any]) -> None:
    _, model = models(members)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = share(torch.randn(8, 6), members), share(torch.randn(8, 2), members)
    session = x.session
    step(model, optimizer, x, y)
    with session.costs.listen() as heard:
        optimizer.step()
    assert {name: record.traffic.operations for name, record in heard.by_operation.items()} == {"descend": 1}
    assert heard.total().rounds == 1


def trained(model: Any, options: dict[str, Any], members: dict[str, Any]) -> tuple[Any, torch.optim.Optimizer, Any]:
    """A model after one step, its optimizer, and a function that makes new gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, **options)
    x, y = share(torch.randn(8, 6), members), share(torch.randn(8, 2), members)
    step(model, optimizer, x, y)

    def backward() -> None:
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()

    return x.session, optimizer, backward


def test_gradients_of_weights_are_truncated_with_the_step(members: dict[str, Any]) -> None:
    _, model = models(members)
    session, optimizer, backward = trained(model, {"momentum": 0.9}, members)
    before = [p.get().detach() for p in model.parameters()]
    with session.costs.listen() as heard:
        backward()
        optimizer.step()
        session.sync()
    found = {name: record.traffic.operations for name, record in heard.by_operation.items()}
    assert found["descend"] == 1
    assert not {"products", "write_all"} & found.keys()
    weights = sum(p.numel() for p in model.parameters())
    assert sum(heard.by_operation["descend"].traffic.offline.values()) == 24 * weights
    moved = [float((p.get().detach() - old).abs().max()) for p, old in zip(model.parameters(), before, strict=True)]
    assert min(moved) > 1e-4


def test_gradients_that_are_looked_at_after_the_step_are_those_of_before(members: dict[str, Any]) -> None:
    plain, model = models(members)
    x, y = torch.randn(8, 6), torch.randn(8, 2)
    twins = [(plain, x, y), (model, share(x, members), share(y, members))]
    seen = []
    for made, inputs, targets in twins:
        optimizer = torch.optim.SGD(made.parameters(), lr=0.5, momentum=0.9)
        for _ in range(3):
            step(made, optimizer, inputs, targets)
        seen.append([p.grad for p in made.parameters()])
    near(seen[1], seen[0])


def test_plain_steps_are_one_command_and_give_the_gradients(members: dict[str, Any]) -> None:
    plain, model = models(members)
    x, y = torch.randn(8, 6), torch.randn(8, 2)
    ((plain(x) - y) ** 2).mean().backward()
    torch.optim.SGD(plain.parameters(), lr=0.05).step()
    session = next(model.parameters()).session
    with session.costs.listen() as heard:
        ((model(share(x, members)) - share(y, members)) ** 2).mean().backward()
        torch.optim.SGD(model.parameters(), lr=0.05).step()
    assert heard.by_operation["descend"].traffic.operations == 1
    assert not {"products", "write_all"} & heard.by_operation.keys()
    near([p.detach() for p in model.parameters()], [p.detach() for p in plain.parameters()])
    with session.costs.listen() as heard:
        near([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])
    assert "products" not in heard.by_operation


def test_gradients_that_are_looked_at_are_made_in_the_same_rounds(members: dict[str, Any]) -> None:
    _, model = models(members)
    session, _, backward = trained(model, {}, members)
    with session.costs.listen() as heard:
        backward()
        model[0].weight.grad.get(), model[2].weight.grad.get()
    assert heard.by_operation["products"].traffic.operations == 1


def test_gradients_nobody_looks_at_are_never_made(members: dict[str, Any]) -> None:
    _, model = models(members)
    session, optimizer, backward = trained(model, {}, members)
    backward()
    with session.costs.listen() as heard:
        optimizer.zero_grad()
        share(torch.ones(2), members).mul_(2.0)
    assert "products" not in heard.by_operation


def test_looking_at_costs_makes_gradients(members: dict[str, Any]) -> None:
    _, model = models(members)
    session, _, backward = trained(model, {}, members)
    with session.costs.listen() as heard:
        backward()
    assert heard.by_operation["products"].traffic.operations == 1


@pytest.mark.parametrize("change", ["the input", "the weights of the next layer", "the gradient itself"])
def test_what_a_gradient_is_made_of_may_change_afterwards(change: str, members: dict[str, Any]) -> None:
    plain, model = models(members)
    x, y = torch.randn(8, 6), torch.randn(8, 2)
    seen = []
    for made, inputs, targets in ((plain, x.clone(), y), (model, share(x, members), share(y, members))):
        ((made(inputs) - targets) ** 2).mean().backward()
        with torch.no_grad():
            if change == "the input":
                inputs.mul_(3.0)
            elif change == "the weights of the next layer":
                made[2].weight.add_(made[2].weight)
            else:
                made[0].weight.grad.mul_(3.0)
        seen.append([p.grad for p in made.parameters()])
    near(seen[1], seen[0])


def test_weights_that_are_input_and_written_to(members: dict[str, Any]) -> None:
    """Two factors of a matrix: the gradient of each is made of the other, which the same step changes."""
    left, right, target = torch.randn(4, 3), torch.randn(5, 3), torch.randn(4, 5)
    seen = []
    for place in (lambda t: t.clone(), lambda t: share(t, members)):
        ps = [nn.Parameter(place(t)) for t in (left, right)]
        optimizer = torch.optim.SGD(ps, lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            ((nn.functional.linear(ps[0], ps[1]) - place(target)) ** 2).mean().backward()
            optimizer.step()
        seen.append([*ps, *(p.grad for p in ps)])
    near([x.detach() for x in seen[1]], [x.detach() for x in seen[0]])


def test_gradients_add_up_over_several_backward_passes(members: dict[str, Any]) -> None:
    plain, model = models(members)
    x, y = torch.randn(8, 6), torch.randn(8, 2)
    for made, inputs, targets in ((plain, x, y), (model, share(x, members), share(y, members))):
        optimizer = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=False)
            for _ in range(2):
                ((made(inputs) - targets) ** 2).mean().backward()
            optimizer.step()
    near([p.detach() for p in model.parameters()], [p.detach() for p in plain.parameters()])


@pytest.mark.parametrize("protocol", ["securenn", "fss", "tables"])
def test_convolutions_descend_in_one_command(protocol: str, members: dict[str, Any]) -> None:
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    place: Any = lambda t: t.share(*members["parties"], crypto_provider=members["crypto_provider"], protocol=protocol)  # noqa: E731
    model = place(copy.deepcopy(plain))
    x, y = torch.randn(4, 1, 6, 6), torch.randn(4, 2)
    for made, inputs, targets in ((plain, x, y), (model, place(x), place(y))):
        optimizer = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
        step(made, optimizer, inputs, targets)
        step(made, optimizer, inputs, targets)
        if made is model:
            assert commands(lambda: step(made, optimizer, inputs, targets), inputs.session)["descend"] == 1  # noqa: B023
        else:
            step(made, optimizer, inputs, targets)
    near([p.detach() for p in model.parameters()], [p.detach() for p in plain.parameters()])


def momentum(bufs: list[Any], grads: list[Any], ps: list[Any]) -> None:
    """What SGD does with momentum, by torch's multi-tensor operations."""
    torch._foreach_mul_(bufs, 0.9)
    torch._foreach_add_(bufs, grads)
    torch._foreach_add_(ps, bufs, alpha=-0.05)


def vectors(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def commands(run: Any, session: Any) -> dict[str, int]:
    with session.costs.listen() as heard:
        run()
    return {name: record.traffic.operations for name, record in heard.by_operation.items()}


def near(found: list[Any], expected: list[torch.Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.get(), theirs, atol=1e-3, rtol=0)


def test_momentum_is_one_command(members: dict[str, Any]) -> None:
    plain = [vectors(1, 2), vectors(3, 4), vectors(5, 6)]
    shared = [[share(x, members) for x in group] for group in plain]
    assert commands(lambda: momentum(*shared), shared[0][0].session) == {"descend": 1}
    momentum(*plain)
    for ours, theirs in zip(shared, plain, strict=True):
        near(ours, theirs)


def test_what_waits_is_written_before_anything_else_happens(members: dict[str, Any]) -> None:
    b, g, p = vectors(1, 2, 3)
    bufs, grads, ps = ([share(x, members)] for x in (b, g, p))
    torch._foreach_mul_(bufs, 0.5)
    near(bufs, [b / 2])
    torch._foreach_mul_(bufs, 0.5)
    torch._foreach_add_(bufs, grads)
    doubled = bufs[0] * 2
    near([doubled, *bufs], [b / 2 + 2 * g, b / 4 + g])
    torch._foreach_mul_(bufs, 0.5)
    late = nn.functional.linear(bufs[0], grads[0])
    torch._foreach_add_(ps, bufs, alpha=-0.5)
    near([late, *ps], [(b / 8 + g / 2) @ g.t(), p - (b / 16 + g / 4)])
    torch._foreach_mul_(bufs, 0.5)
    torch._foreach_mul_(bufs, 0.5)
    near(bufs, [b / 32 + g / 8])


def test_what_was_asked_for_before_sees_old_values(members: dict[str, Any]) -> None:
    b, g = vectors(1, 2)
    buf = share(b, members)
    product = torch.relu(nn.functional.linear(buf, share(g, members)))
    torch._foreach_mul_([buf], 0.5)
    near([product, buf], [torch.relu(b @ g.t()), b / 2])


@pytest.mark.parametrize("case", ["another group", "shared memory", "a view", "fractional weight", "exact truncation"])
def test_steps_that_cannot_be_joined(case: str, members: dict[str, Any]) -> None:
    def run(place: Any) -> list[Any]:
        b, g, p, q = (place(x) for x in vectors(1, 2, 3, 4))
        if case == "another group":
            torch._foreach_mul_([b, q], 0.9)
            torch._foreach_add_([b], [g])
            torch._foreach_add_([p], [b], alpha=-0.05)
        elif case == "shared memory":
            torch._foreach_mul_([b], 0.9)
            torch._foreach_add_([b], [g])
            torch._foreach_add_([g], [b], alpha=-0.05)
        elif case == "a view":
            torch._foreach_mul_([b], 0.9)
            torch._foreach_add_([b], [b.t().reshape(3, 4)])
            torch._foreach_add_([b[:1]], [b[1:2]], alpha=-0.05)
        elif case == "fractional weight":
            torch._foreach_mul_([b], 0.9)
            torch._foreach_add_([b], [g], alpha=0.3)
            torch._foreach_add_([p], [b], alpha=-0.05)
        else:
            torch._foreach_mul_([b], 0.9)
            torch._foreach_add_([b], [g])
            torch._foreach_add_([p], [b], alpha=-0.05)
        return [b, g, p, q]

    options = {"truncation": "exact"} if case == "exact truncation" else {}
    made = run(lambda x: x.share(*members["parties"], crypto_provider=members["crypto_provider"], **options))
    near(made, run(lambda x: x.clone()))


def test_gradients_that_do_not_belong_are_refused_while_sums_wait(members: dict[str, Any]) -> None:
    b, g = vectors(1, 2)
    other_protocol = g.share(*members["parties"], crypto_provider=members["crypto_provider"], protocol="securenn")
    other_precision = share(g.fix_precision(precision_fractional=12, base=2), members)
    for other in (other_protocol, other_precision):
        buf = share(b, members)
        torch._foreach_mul_([buf], 0.5)
        with pytest.raises(MismatchError):
            torch._foreach_add_([buf], [other])
        near([buf], [b / 2])


def test_shared_and_plain_parameters_in_one_optimizer(members: dict[str, Any]) -> None:
    secret, public = nn.Parameter(share(torch.ones(3), members)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([secret, public], lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        (secret * 2).sum().backward()
        (public * 2).sum().backward()
        optimizer.step()
    torch.testing.assert_close(secret.get().detach(), torch.full((3,), -1.9), atol=1e-3, rtol=0)
    torch.testing.assert_close(public.detach(), torch.full((2,), -1.9))


def test_plain_optimizers_are_left_alone() -> None:
    p = nn.Parameter(torch.ones(2))
    seen = []
    optimizer = torch.optim.SGD([p], lr=0.1)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(o.param_groups[0]["foreach"]))
    p.grad = torch.ones(2)
    optimizer.step()
    assert seen == [None]


def test_changes_in_place_are_counted(members: dict[str, Any]) -> None:
    for change in (
        lambda xs: torch._foreach_mul_(xs, 2.0),
        lambda xs: torch._foreach_add_(xs, xs),
        torch._foreach_neg_,
    ):
        x = share(torch.ones(2), members)
        change([x])
        assert x._version == 1
    w = share(torch.ones(2), members).requires_grad_()
    y = w * w
    with torch.no_grad():
        torch._foreach_mul_([w], 2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_tensors_that_occur_twice_change_one_after_the_other(members: dict[str, Any]) -> None:
    def run(place: Any) -> list[list[float]]:
        x, y = place(torch.tensor([1.0, 2.0])), place(torch.tensor([0.5, 0.25]))
        torch._foreach_add_([x, x], [y, y])
        torch._foreach_add_([x, y], [y, x])
        torch._foreach_mul_([x, x[:1]], 2.0)
        torch._foreach_add_([y, x], [x[:1].expand(2), y])
        return [(t.get() if hasattr(t, "handle") else t).tolist() for t in (x, y)]

    assert run(lambda t: share(t, members)) == run(lambda t: t.clone())


def test_other_multi_tensor_operations_run_one_by_one(members: dict[str, Any]) -> None:
    xs = [share(torch.tensor([1.0, 2.0]), members), share(torch.tensor([3.0]), members)]
    for x, expected in zip(torch._foreach_neg(xs), ([-1.0, -2.0], [-3.0]), strict=True):
        assert x.get().tolist() == expected
    torch._foreach_sub_(xs, xs)
    assert [x.get().tolist() for x in xs] == [[0.0, 0.0], [0.0]]
