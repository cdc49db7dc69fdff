"""Tensor types of the user's own: overloads, layers around every kind of tensor, autograd through them."""

from __future__ import annotations

import collections
import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hst
from torch import nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch.mpc.errors import UnknownOverloadError
from sharetorch.remote.custom import (
    ATTRIBUTES,
    METHODS,
    AbstractTensor,
    EmptyLayerError,
    LayerMismatchError,
    LostGradientError,
    NotATensorError,
)
from sharetorch.remote.logging_tensor import LoggingTensor
from sharetorch.remote.overload import Overloads, overloaded
from tests.tensor.tools import ALICE, BOB, PROVIDER, assert_same


class Counting(AbstractTensor):
    """Counts functions and one method, with a name as its setting."""

    calls: collections.Counter[str] = collections.Counter()

    def __init__(self, label: str = "none") -> None:
        super().__init__()
        self.label = label

    def get_class_attributes(self) -> dict[str, Any]:
        return {"label": self.label}

    @overloaded.method
    def mul(self, _self, *args, **kwargs):
        Counting.calls[f"mul by {self.label}"] += 1
        return _self.mul(*args, **kwargs)

    @classmethod
    def on_function_call(cls, command):
        name, _, args, kwargs = command
        assert not any(isinstance(value, Counting) for value in (*args, *kwargs.values()))
        cls.calls[name] += 1


@pytest.fixture(autouse=True)
def no_calls():
    Counting.calls.clear()


def logged(*values, **options):
    return LoggingTensor().on(torch.tensor(values, **options))


def lines(capsys):
    return capsys.readouterr().out.splitlines()


# ------------------------------------------------------------------------------------------------------------ overloads


def test_the_lines_of_the_tutorial(capsys):
    x = logged(1.0, -2.0)
    x.add(x)
    x.manual_add(x)
    torch.add(x, x)
    F.relu(x)
    torch.div(x, x)
    assert lines(capsys) == [
        "Log method add",
        "Log method manual_add",
        "Log function torch.add",
        "Log function torch.nn.functional.relu",
        "Default log torch.div",
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: x.add(y),
        lambda x, y: x + y,
        lambda x, y: x + y.child,
        lambda x, y: y.child + x,
        lambda x, y: torch.Tensor.add(x, y),
        lambda x, y: LoggingTensor.add(x, y),
        lambda x, y: x.add(other=y),
        lambda x, y: x.add(y, alpha=1),
    ],
)
def test_every_form_of_a_method_finds_its_overload(call, capsys):
    result = call(logged(1.0, 2.0), logged(3.0, 4.0))
    assert type(result) is LoggingTensor
    assert result.tolist() == [4.0, 6.0]
    assert lines(capsys) == ["Log method add"]


def test_operators_with_numbers(capsys):
    assert (logged(1.0) + 2).tolist() == (2 + logged(1.0)).tolist() == [3.0]
    assert lines(capsys) == ["Log method add"] * 2
    assert (5 - logged(1.0)).tolist() == [4.0]
    assert (1 / logged(4.0)).tolist() == [0.25]
    assert lines(capsys) == []


OPERATORS = {
    "__eq__": lambda x: x == 1,
    "eq": lambda x: x == 1,
    "pow": lambda x: x**2,
    "div": lambda x: x / 2,
    "__truediv__": lambda x: x / 2,
    "__rsub__": lambda x: 1 - x,
    "__rtruediv__": lambda x: 1 / x,
    "floor_divide": lambda x: x // 2,
    "remainder": lambda x: x % 2,
    "neg": lambda x: -x,
    "__neg__": lambda x: -x,
    "abs": lambda x: abs(x),
    "matmul": lambda x: x @ x,
    "__matmul__": lambda x: x @ x,
    "add_": lambda x: x.__iadd__(1),
    "__getitem__": lambda x: x[0],
    "split": lambda x: x.split(1),
    "lt": lambda x: x < 1,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_found_by_the_name_of_their_method(name):
    seen = []

    def implementation(self, _self, *args, **kwargs):
        assert type(self) is Made
        assert type(_self) is torch.Tensor
        seen.append(name)
        return getattr(_self, name)(*args, **kwargs)

    Made = type("Made", (AbstractTensor,), {name: overloaded.method(implementation)})
    value = torch.tensor([4.0, 6.0])
    result, expected = OPERATORS[name](Made().on(value.clone())), OPERATORS[name](value.clone())
    for one, other in zip(result, expected, strict=True) if name == "split" else [(result, expected)]:
        assert type(one) is Made
        assert torch.equal(one.child, other)
    assert seen == [name]


def test_functions_of_a_module_get_the_tensors_as_they_are():
    class Own(AbstractTensor):
        @staticmethod
        @overloaded.module
        def torch(module):
            def exp(x):
                assert type(x) is Own
                return x.child * 0 + 7

            @overloaded.module
            def nn(module):
                @overloaded.module
                def functional(module):
                    @overloaded.function
                    def softplus(x):
                        assert type(x) is torch_tensor
                        return x * 0 + 9

                    module.softplus = softplus

                module.functional = functional

            module.exp, module.nn = exp, nn

    torch_tensor = torch.Tensor
    x = Own().on(torch.ones(1))
    assert type(torch.exp(x)) is torch.Tensor
    assert torch.exp(x).item() == 7
    assert type(F.softplus(x)) is Own
    assert F.softplus(x).item() == 9
    assert x.exp().item() == pytest.approx(2.71828, abs=1e-4), "the method is another thing than the function"


def test_the_settings_of_a_layer_go_on_to_results():
    x, y = Counting("left").on(torch.ones(2)), Counting("right").on(torch.ones(2))
    assert (x * y).label == (x - 1).label == torch.stack([x, y]).label == x.sum().label == "left"
    assert (1 - y).label == (torch.ones(2) * y).label == "right"
    assert Counting.calls == {"mul by left": 1, "mul by right": 1, "torch.stack": 1}


def test_functions_are_announced_and_methods_are_not():
    x = Counting().on(torch.ones(2, 2))
    x.sum()
    x.T  # noqa: B018
    assert not Counting.calls
    nn.Linear(2, 3)(x)
    F.relu(x)
    torch.split(x, 1)
    torch.linalg.norm(x)
    assert list(Counting.calls) == [
        "torch.nn.functional.linear",
        "torch.nn.functional.relu",
        "torch.split",
        "torch.linalg.norm",
    ]


def test_overloads_are_inherited_and_replaced():
    class More(Counting):
        @overloaded.method
        def add(self, _self, *args, **kwargs):
            Counting.calls["add"] += 1
            return _self.add(*args, **kwargs)

    class Less(More):
        def mul(self, other):
            return super(AbstractTensor, self).mul(other)

    (More("m").on(torch.ones(1)) + 1) * 2
    assert Counting.calls == {"add": 1, "mul by m": 1}
    (Less("m").on(torch.ones(1)) + 1) * 2
    assert Counting.calls == {"add": 2, "mul by m": 1}
    assert Counting.overloads.methods.keys() == {"mul"}
    assert AbstractTensor.overloads == Overloads()


def test_a_function_that_torch_does_not_have():
    with pytest.raises(UnknownOverloadError, match=r"torch.nn.functional.rellu is overloaded"):

        class Wrong(AbstractTensor):
            @overloaded.module
            def torch(module):
                @overloaded.module
                def nn(module):
                    @overloaded.module
                    def functional(module):
                        module.rellu = lambda x: x

                    module.functional = functional

                module.nn = nn

    with pytest.raises(UnknownOverloadError, match="'numpy' is overloaded"):

        class Other(AbstractTensor):
            @overloaded.module
            def numpy(module):
                pass


# ------------------------------------------------------------------------------------------------- a tensor like others


FUNCTIONS = {
    "split": lambda x: x.split(1),
    "torch.split": lambda x: torch.split(x, 1),
    "max over a dimension": lambda x: x.max(1),
    "sort": lambda x: torch.sort(x, 1, descending=True),
    "chunk": lambda x: x.chunk(2, 1),
    "stack": lambda x: torch.stack([x, x]),
    "cat with plain": lambda x: torch.cat([x, torch.ones(1, 2)]),
    "broadcast": lambda x: torch.broadcast_tensors(x, torch.ones(2)),
    "slices": lambda x: x[1:, 0],
    "mask": lambda x: x[x > 0],
    "places": lambda x: torch.arange(5.0)[(x > 0).long()],
    "where": lambda x: torch.where(x > 0, x, torch.zeros(())),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "softmax": lambda x: F.softmax(x, 1),
    "transposed": lambda x: x.mT,
    "svd": lambda x: torch.linalg.svdvals(x),
    "zeros_like": lambda x: torch.zeros_like(x),
    "to float64": lambda x: x.double(),
    "rows": lambda x: list(x),
    "expanded": lambda x: x.expand(3, 2, 2),
    "conv2d": lambda x: F.conv2d(x[None, None], torch.ones(1, 1, 2, 2)),
    "frexp": lambda x: torch.frexp(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_those_of_torch_with_the_layer(name):
    value = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    result, expected = FUNCTIONS[name](Counting("n").on(value)), FUNCTIONS[name](value)
    assert isinstance(expected, torch.Tensor) or type(result) is type(expected)
    results, expecteds = (r if isinstance(r, (tuple, list)) else [r] for r in (result, expected))
    for one, other in zip(results, expecteds, strict=True):
        assert type(one) is Counting
        assert torch.equal(one.child, other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape


@settings(max_examples=60, deadline=None)
@given(
    steps=hst.lists(hst.sampled_from(["+", "*", "relu", "T", "in place", "flip", "cumsum", "-plain"]), max_size=6),
    kinds=hst.lists(hst.sampled_from([Counting, LoggingTensor]), min_size=1, max_size=3, unique=True),
    seed=hst.integers(0, 1000),
)
def test_programs_and_their_gradients_are_those_of_torch(steps, kinds, seed):
    programs = {
        "+": lambda x: x + x * 0.5,
        "*": lambda x: x * x,
        "relu": lambda x: F.relu(x),
        "T": lambda x: x.T,
        "in place": lambda x: x.clone().mul_(2),
        "flip": lambda x: torch.flip(x, [0]),
        "cumsum": lambda x: x.cumsum(1),
        "-plain": lambda x: torch.ones(2, 2) - x,
    }
    value = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
    plain, inner = value.clone().requires_grad_(True), value.clone().requires_grad_(True)
    layered: Any = inner
    for kind in kinds:
        layered = kind().on(layered)
    x, y = layered, plain
    LoggingTensor.write, write = (lambda line: None), LoggingTensor.write
    try:
        for step in steps:
            x, y = programs[step](x), programs[step](y)
        x.sum().backward()
    finally:
        LoggingTensor.write = staticmethod(write)
    y.sum().backward()
    assert type(x) is type(layered)
    assert torch.equal(inner.grad, plain.grad)
    while isinstance(x, AbstractTensor):
        x = x.child
    assert torch.equal(x, y)


def test_attributes_are_those_of_the_child():
    x = Counting("n").on(torch.zeros(2, 3, dtype=torch.float64, requires_grad=True))
    assert isinstance(x, torch.Tensor)
    assert (x.shape, x.dtype, x.ndim, x.numel(), len(x)) == ((2, 3), torch.float64, 2, 6, 2)
    assert x.requires_grad
    assert x.is_leaf
    assert x.grad is None
    assert x.data.child.data_ptr() == x.child.data_ptr()
    assert x.is_wrapper
    assert x.has_child()
    assert x.wrap() is x
    assert not x.detach().requires_grad
    with pytest.raises(AttributeError, match="nonsense"):
        x.nonsense  # noqa: B018
    with pytest.raises(AttributeError):
        x._nonsense  # noqa: B018


def test_conversions_are_those_of_the_child():
    x = logged(1.5)
    assert (float(x), x.item(), bool(x), f"{x[0]:.2f}") == (1.5, 1.5, True, "1.50")
    assert x.tolist() == [1.5]
    assert x.numpy().tolist() == [1.5]


def test_in_place_operations_change_the_child_and_keep_the_tensor():
    child = torch.tensor([1.0, 2.0])
    x = before = Counting("n").on(child)
    x += 1
    x.mul_(2)
    x[0] = 9
    assert x is before
    assert x.child is child
    assert child.tolist() == [9.0, 6.0]
    out = Counting("out").on(torch.empty(2))
    assert torch.add(x, 1, out=out) is out
    assert out.tolist() == [10.0, 7.0]
    assert x.contiguous() is x
    plain = torch.zeros(2)
    assert plain.add_(x) is plain
    assert plain.tolist() == [9.0, 6.0]


def test_how_it_prints():
    assert repr(logged(1.0, 2.0)) == "LoggingTensor>tensor([1., 2.])"
    assert repr(logged(1.0, requires_grad=True)) == "LoggingTensor>tensor([1.], requires_grad=True)"
    assert repr(Counting().on(logged(1.0))) == "Counting>LoggingTensor>tensor([1.])"
    assert repr(nn.Parameter(logged(1.0))).startswith("Parameter>LoggingTensor>tensor([1.]")
    assert repr(LoggingTensor()) == "LoggingTensor>(nothing)"


def test_copies_and_saved_files():
    x = Counting("n").on(torch.tensor([1.0]))
    copied = copy.deepcopy(x)
    copied += 1
    assert (x.item(), copied.item(), copied.label) == (1.0, 2.0, "n")
    assert x.copy().child is not x.child
    saved = io.BytesIO()
    torch.save(x, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    assert (type(loaded), loaded.label, loaded.item()) == (Counting, "n", 1.0)


# ------------------------------------------------------------------------------------------------------------- autograd


def test_the_gradient_of_a_layer_is_a_layer_around_the_child_s():
    child = torch.tensor([1.0, 2.0], requires_grad=True)
    x = Counting("n").on(child)
    (x * x).sum().backward()
    assert type(x.grad) is Counting
    assert x.grad.label == "n"
    assert x.grad.child is child.grad
    assert child.grad.tolist() == [2.0, 4.0]
    x.grad.zero_()
    assert child.grad.tolist() == [0.0, 0.0]
    x.grad = None
    assert child.grad is None
    (gradient,) = torch.autograd.grad((x**3).sum(), x)
    assert gradient.tolist() == [3.0, 12.0]
    torch.autograd.backward((x * 2).sum())
    (x * 1).backward(Counting("n").on(torch.ones(2)))
    assert child.grad.tolist() == [3.0, 3.0]


def test_gradients_flow_from_plain_tensors_through_a_layer_and_back():
    plain = torch.tensor([1.0, 2.0], requires_grad=True)
    (Counting().on(plain * 2).exp().child.sum() * 3).backward()
    assert torch.allclose(plain.grad, 6 * (2 * plain.detach()).exp())


def test_plain_layers_on_inputs_with_a_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    expected = copy.deepcopy(model)
    F.mse_loss(expected(x), torch.zeros(5, 2)).backward()
    result = model(Counting().on(x))
    assert type(result) is Counting
    F.mse_loss(result, torch.zeros(5, 2)).backward()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert type(one.grad) is torch.Tensor
        assert torch.equal(one.grad, other.grad)


def test_parameters_with_a_layer_are_trained():
    torch.manual_seed(0)
    plain = nn.Linear(3, 2)
    model = copy.deepcopy(plain)
    model.weight = nn.Parameter(Counting("w").on(model.weight.detach().clone()))
    assert isinstance(model.weight, nn.Parameter)
    x = torch.randn(4, 3)
    for network in (plain, model):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
    assert type(model.weight) is Counting
    assert torch.allclose(model.weight.child, plain.weight, atol=1e-6)
    copied = copy.deepcopy(model)
    assert isinstance(copied.weight, nn.Parameter)
    assert copied.weight.child is not model.weight.child


def test_a_gradient_that_would_be_lost_is_an_error():
    x = logged(1.0, requires_grad=True)
    with torch._C.DisableTorchFunctionSubclass(), pytest.raises(LostGradientError, match="aten.mul"):
        torch.mul(x, 2)
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        assert torch.mul(x, 2).child.item() == 2.0


# --------------------------------------------------------------------------------------------------------------- chains


def test_layers_around_layers(capsys):
    x = Counting("n").on(logged(1.0, 2.0))
    result = (x + 1) * 2
    assert repr(result) == "Counting>LoggingTensor>tensor([4., 6.])"
    assert result.label == "n"
    torch.div(x, 2)
    assert lines(capsys) == ["Log method add", "Default log torch.div"]
    assert Counting.calls == {"mul by n": 1, "torch.div": 1}


def test_a_layer_meets_its_own_inside(capsys):
    x, y = Counting("n").on(logged(1.0)), logged(10.0)
    for result in (x + y, y + x, y.add(x)):
        assert repr(result) == "Counting>LoggingTensor>tensor([11.])"
    assert lines(capsys) == ["Log method add"] * 3


@pytest.mark.parametrize(
    "meet",
    [lambda x, y: x + y, lambda x, y: y.add(x), lambda x, y: torch.stack([x, y]), lambda x, y: F.linear(x, y)],
)
def test_two_types_of_which_neither_is_around_the_other(meet):
    x, y = Counting().on(torch.ones(1)), logged(1.0)
    with pytest.raises(LayerMismatchError, match="neither is laid around the other") as caught:
        meet(x, y)
    assert isinstance(caught.value, st.ShareTorchError)
    assert "Counting" in str(caught.value)
    assert "LoggingTensor" in str(caught.value)


def test_a_subtype_meets_its_base():
    class Special(Counting):
        pass

    x, y = Special("s").on(torch.ones(1)), Counting("c").on(torch.ones(1))
    assert (x + y).item() == (y + x).item() == 2.0


# ---------------------------------------------------------------------------------------- around other kinds of tensor


@pytest.mark.parametrize("in_place", [False, True])
def test_sharing_keeps_the_layer_outside(in_place, capsys):
    x = logged(1.5, -2.0)
    shared = (x.share_ if in_place else x.share)(ALICE, BOB, crypto_provider=PROVIDER)
    assert (shared is x) == in_place
    assert type(shared) is LoggingTensor
    assert isinstance(shared.child, st.SharedTensor)
    assert repr(shared).startswith("LoggingTensor>[AdditiveSharingTensor]")
    assert shared.locations == [ALICE, BOB]
    result = F.relu(shared + shared) * shared
    assert isinstance(result.child, st.SharedTensor)
    assert lines(capsys) == ["Log method add", "Log function torch.nn.functional.relu"]
    opened = result.get()
    assert type(opened) is LoggingTensor
    assert_same(opened.child, torch.tensor([4.5, 0.0]), 2.0**-15)


def test_shared_gradients_under_a_layer():
    x = Counting().on(torch.tensor([1.5, -2.0])).share(ALICE, BOB, crypto_provider=PROVIDER, requires_grad=True)
    model = nn.Linear(2, 2).share(ALICE, BOB, crypto_provider=PROVIDER)
    loss = F.mse_loss(model(x), torch.zeros(2))
    loss.backward()
    assert type(loss) is Counting
    assert isinstance(x.grad.child, st.SharedTensor)
    assert isinstance(model.weight.grad, st.SharedTensor)
    assert x.grad.get().shape == (2,)
    with pytest.raises(st.exceptions.RevealError):
        bool(loss > 0)


def test_pairs_of_values_and_places():
    x = Counting("n").on(torch.tensor([[1.0, 3.0], [7.0, 2.0]])).share(ALICE, BOB, crypto_provider=PROVIDER)
    values, places = x.max(1)
    assert values.label == places.label == "n"
    assert values.get().tolist() == [3.0, 7.0]
    assert places.get().tolist() == [1, 0]


def test_a_layer_meets_shared_tensors():
    secret = torch.tensor([1.0]).share(ALICE, BOB, crypto_provider=PROVIDER)
    x = Counting("n").on(torch.tensor([2.0]))
    result = x * secret
    assert isinstance(result.child, st.SharedTensor)
    assert result.get().item() == 2.0


GIVES_WAY = (
    st.SharedTensor.__torch_function__(torch.numel, (st.SharedTensor, Counting), (torch.zeros(1),)) is NotImplemented
)


@pytest.mark.skipif(not GIVES_WAY, reason="SharedTensor.__torch_function__ does not give way to layers yet")
def test_shared_tensors_meet_a_layer():
    secret = torch.tensor([1.0]).share(ALICE, BOB, crypto_provider=PROVIDER)
    x = Counting("n").on(torch.tensor([2.0]))
    for result in (secret * x, torch.add(secret, x), secret - x, torch.stack([secret, x])):
        assert type(result) is Counting
        assert isinstance(result.child, st.SharedTensor)
    assert (secret * x).get().item() == 2.0


def test_fixed_precision_and_back():
    x = Counting("n").on(torch.tensor([0.5, 2.113]))
    fixed = x.fix_precision()
    assert isinstance(fixed.child, st.FixedPrecisionTensor)
    assert type(fixed) is Counting
    assert fixed.label == "n"
    assert torch.allclose((fixed + fixed).float_precision().child, torch.tensor([1.0, 4.226]))
    secret = x.fix_prec(precision_fractional=2).share(ALICE, BOB, crypto_provider=PROVIDER)
    assert torch.allclose(secret.get().float_prec().child, torch.tensor([0.5, 2.11]))
    assert torch.allclose(x.encrypt(workers=[ALICE, BOB], crypto_provider=PROVIDER).decrypt().child, x.child, atol=1e-3)


class Remote(torch.Tensor):
    """Stands for a tensor elsewhere: computes only after a function has asked for it."""

    def get(self):
        return self.as_subclass(torch.Tensor)

    def move(self, place):
        moved = self.clone()
        moved.location = place
        return moved


def test_methods_and_attributes_of_a_child_of_any_kind(capsys):
    child = torch.tensor([1.0, 2.0]).as_subclass(Remote)
    child.location = "there"
    x = LoggingTensor().on(child)
    assert x.location == "there"
    assert x.move("elsewhere").location == "elsewhere"
    assert type((x + x).child) is Remote
    fetched = (x + x).get()
    assert type(fetched.child) is torch.Tensor
    assert fetched.tolist() == [2.0, 4.0]
    assert lines(capsys) == ["Log method add"] * 2


@pytest.mark.skipif(not hasattr(torch.Tensor, "send"), reason="tensors cannot be sent yet")
def test_sending_keeps_the_layer_outside(capsys):
    worker = st.VirtualWorker(id="holder-of-a-logged-tensor")
    x = logged(1.0, 2.0, requires_grad=True)
    remote = x.send(worker)
    assert type(remote) is LoggingTensor
    assert type(remote.child) is type(torch.ones(1).send(worker))
    assert remote.location is worker
    result = (remote + remote) * remote
    assert type(result.child) is type(remote.child)
    assert lines(capsys) == ["Log method add"]
    result.sum().backward()
    assert repr(remote).startswith("LoggingTensor>")
    assert result.get().tolist() == [2.0, 8.0]
    fetched = remote.get()
    assert type(fetched) is LoggingTensor
    assert fetched.tolist() == [1.0, 2.0]
    assert fetched.grad.tolist() == [4.0, 8.0]


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_the_child_lacks_say_so(name):
    x = logged(1.0)
    if not hasattr(torch.Tensor, name):
        with pytest.raises(AttributeError, match=name):
            getattr(x, name)()


def test_every_method_that_the_package_adds_to_tensors_reaches_the_child():
    own = {"has_child", "is_wrapper", "wrap"}
    added = {
        name
        for name, value in vars(torch.Tensor).items()
        if type(value).__module__.startswith("sharetorch")
        or str(getattr(getattr(value, "fget", value), "__module__", None)).startswith("sharetorch")
        or str(getattr(value, "__module__", "")).startswith("sharetorch.")
    }
    assert {"share", "get", "fix_precision"} <= added
    assert added - own <= {*METHODS, *ATTRIBUTES}


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_layer_around_nothing():
    for use in (lambda x: x + 1, lambda x: torch.stack([x]), lambda x: x.share(ALICE, BOB), lambda x: x.child):
        with pytest.raises(EmptyLayerError, match=r"LoggingTensor\(\).on\(x\)"):
            use(LoggingTensor())


@pytest.mark.parametrize("value", [1.0, [1.0], "x", None])
def test_a_layer_around_no_tensor(value):
    with pytest.raises(NotATensorError, match="goes around a tensor"):
        LoggingTensor().on(value)


def test_a_mistake_in_an_overload_reaches_the_user():
    class Broken(AbstractTensor):
        @overloaded.method
        def add(self, _self, other):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        Broken().on(torch.ones(1)) + 1


def test_arguments_of_the_tutorials_constructor():
    x = LoggingTensor(owner=st.local_worker, id=3, tags={"#a"}, description="text").on(torch.ones(1), wrap=False)
    assert x.item() == 1.0
