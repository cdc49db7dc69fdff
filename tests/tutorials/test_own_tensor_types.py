"""A tensor type of one's own: what it overloads, what it lets pass, and how it meets workers."""

from typing import Any

import pytest
import torch

import sharetorch as sy
from sharetorch.generic.abstract.tensor import AbstractTensor as NewerPath
from sharetorch.generic.frameworks.overload import overloaded
from sharetorch.generic.tensor import AbstractTensor

hook = sy.TorchHook(torch)


class Recording(AbstractTensor):
    """Writes down which of its functions were called, in one list for all results."""

    def __init__(
        self, record: Any = None, owner: Any = None, id: Any = None, tags: Any = None, description: Any = None
    ):
        super().__init__(owner=owner, id=id, tags=tags, description=description)
        self.record = [] if record is None else record

    def get_class_attributes(self) -> dict[str, Any]:
        return {"record": self.record}

    @overloaded.method
    def add(self, _self: Any, *args: Any, **kwargs: Any) -> Any:
        self.record.append("method add")
        return _self.add(*args, **kwargs)

    def manual_add(self, *args: Any, **kwargs: Any) -> Any:
        self.record.append("manual_add")
        return self.on(self.child.add(*(arg.child for arg in args), **kwargs))

    @overloaded.module
    def torch(module: Any) -> None:
        def mul(x: Any, y: Any) -> Any:
            x.record.append("torch.mul")
            return type(x)(**x.get_class_attributes()).on(x.child * y.child)

        module.mul = mul

        @overloaded.function
        def sub(x: Any, y: Any) -> Any:
            return x - y

        module.sub = sub

        @overloaded.module
        def nn(module: Any) -> None:
            @overloaded.module
            def functional(module: Any) -> None:
                @overloaded.function
                def relu(x: Any, **kwargs: Any) -> Any:
                    return x * (x > 0)

                module.relu = relu

            module.functional = functional

        module.nn = nn


def test_the_two_paths_name_one_class() -> None:
    assert NewerPath is AbstractTensor is sy.AbstractTensor


def test_methods_and_functions_find_their_overloads() -> None:
    x = Recording().on(torch.tensor([0.0, 1.0, -2.0]))
    assert (x + x).child.tolist() == [0.0, 2.0, -4.0]
    assert x.add(x).record == ["method add", "method add"]
    assert x.manual_add(x).child.tolist() == [0.0, 2.0, -4.0]
    product = torch.mul(x, x)
    assert isinstance(product, Recording) and product.child.tolist() == [0.0, 1.0, 4.0]
    assert torch.sub(x, x).child.tolist() == [0.0, 0.0, 0.0]
    assert torch.nn.functional.relu(x).child.tolist() == [0.0, 1.0, 0.0]
    assert x.record == ["method add", "method add", "manual_add", "torch.mul"]
    assert x.child.tolist() == [0.0, 1.0, -2.0]


def test_the_logging_tensor_says_what_passes(capsys: pytest.CaptureFixture[str]) -> None:
    x = sy.LoggingTensor().on(torch.tensor([0.0, 1.0, -2.0, 4.0]))
    y = x + x
    assert y.child.tolist() == [0.0, 2.0, -4.0, 8.0]
    assert capsys.readouterr().out == "Log method add\n"
    y = torch.add(x, x)
    assert capsys.readouterr().out.endswith("Log function torch.add\n")
    y = torch.div(y, 2)
    assert capsys.readouterr().out == "Default log torch.div\n"
    y = torch.nn.functional.relu(y)
    assert capsys.readouterr().out.endswith("Log function torch.nn.functional.relu\n")
    assert "LoggingTensor>tensor([0., 1., 0., 4.])" in str(y)


def test_a_logged_tensor_is_sent_and_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x = sy.LoggingTensor().on(torch.tensor([1.0, 2.0])).send(bob)
    assert len(bob._objects) == 1 and x.location is bob
    y = x + x
    assert capsys.readouterr().out == "Log method add\n"
    back = y.get()
    assert isinstance(back, sy.LoggingTensor) and back.child.tolist() == [2.0, 4.0]


def test_a_layer_around_shares() -> None:
    bob, alice, james = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "james"))
    x = Recording().on(torch.tensor([1, -2])).share(bob, alice, crypto_provider=james)
    assert isinstance(x.child, sy.AdditiveSharingTensor)
    assert (x + x).get().child.tolist() == [2, -4]
    assert x.record == ["method add"]
