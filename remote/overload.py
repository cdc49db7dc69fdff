"""``overloaded``: how a tensor type of the user's own says what it does differently.

    overloaded.method      a method of tensors, by its name; operators are found under the name of their method
    overloaded.module      functions of ``torch`` and of its submodules, by their place
    overloaded.function    inside such a module: a function that wants the tensors without their layer

The decorators only mark. ``Overloads`` collects the marks of a class when it is made; ``sharetorch.remote.custom`` acts
on them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from sharetorch.mpc.errors import UnknownOverloadError

_OTHER_NAMES = {
    "truediv": "div",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "invert": "bitwise_not",
}
"""Methods that operators stand for, where the names differ."""


class OverloadedMethod:
    """A method whose arguments come without their layer and whose results get it back.

    Args:
        implementation: called with the tensor, then with the arguments without their layer, the first being the tensor
            the method was called on.
    """

    def __init__(self, implementation: Callable[..., Any]) -> None:
        self.implementation = implementation
        self.name = implementation.__name__
        functools.update_wrapper(self, implementation)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(instance.call_overloaded, self)

    def __call__(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        """The method called on the class: ``LoggingTensor.add(x, y)``."""
        return instance.call_overloaded(self, *args, **kwargs)


@dataclass(frozen=True)
class OverloadedFunction:
    """A function whose arguments come without their layer and whose results get it back."""

    implementation: Callable[..., Any]


class OverloadedModule(types.SimpleNamespace):
    """Overloaded functions of a module, and its submodules, as attributes."""

    def functions(self, real: Any, path: str) -> Iterator[tuple[Any, Any]]:
        """Pairs of a function of torch and what replaces it.

        Raises:
            UnknownOverloadError: torch has no such function.
        """
        for name, value in vars(self).items():
            target = getattr(real, name, None)
            if target is None:
                raise UnknownOverloadError(
                    f"{path}.{name} is overloaded, but torch has no such function, so it would never be called. "
                    "Overload functions at the place where torch has them, for example torch.nn.functional.relu."
                )
            if isinstance(value, OverloadedModule):
                yield from value.functions(target, f"{path}.{name}")
            else:
                yield target, value


class _Overloaded:
    """The three decorators."""

    @staticmethod
    def method(implementation: Callable[..., Any]) -> Any:
        """Overload a method: ``def add(self, _self, *args, **kwargs)``.

        ``self`` is the tensor of the user's type. ``_self`` is what is inside it, and the other arguments are without
        their layer too. Tensors in the result get the layer of ``self``. ``x + y`` and ``y + x`` come here as well; a
        method with a trailing underscore, ``add_``, stands for ``x += y``, ``__rsub__`` for ``1 - x``.
        """
        return OverloadedMethod(implementation)

    @staticmethod
    def module(define: Callable[[Any], None]) -> Any:
        """Overload functions of a module: ``def torch(module): ...; module.add = add``.

        The functions get the user's tensors as they are, and what they return is the result as it is. Modules inside
        modules: ``module.nn = nn``, where ``nn`` is made in the same way.
        """
        module = OverloadedModule()
        define(module)
        return module

    @staticmethod
    def function(implementation: Callable[..., Any]) -> Any:
        """Inside a module: a function that gets tensors without their layer, and whose results get it back."""
        return OverloadedFunction(implementation)


overloaded = _Overloaded()
"""The decorators ``overloaded.method``, ``overloaded.module`` and ``overloaded.function``."""


@dataclass(frozen=True)
class Overloads:
    """What a class does differently: methods by name, functions by themselves."""

    methods: dict[str, OverloadedMethod] = field(default_factory=dict)
    functions: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, owner: type) -> Overloads:
        """The overloads of a class and its bases; what a class defines replaces what its bases do.

        Raises:
            UnknownOverloadError: a function that torch does not have.
        """
        found = cls()
        for base in reversed(owner.__mro__):
            for name, value in vars(base).items():
                found._add(name, value)
        return found

    def _add(self, name: str, value: Any) -> None:
        value = value.__func__ if isinstance(value, staticmethod) else value
        if isinstance(value, OverloadedMethod):
            self.methods[name] = value
        elif isinstance(value, OverloadedModule):
            if name != "torch":
                raise UnknownOverloadError(f"The module {name!r} is overloaded; only functions of torch can be.")
            self.functions.update(value.functions(torch, "torch"))
        else:
            self.methods.pop(name, None)

    def method(self, func: Any) -> OverloadedMethod | None:
        """What replaces a method of tensors, if anything does."""
        if not self.methods:
            return None
        return next((self.methods[name] for name in _method_names(func) if name in self.methods), None)


def _method_names(func: Any) -> Iterator[str]:
    """The names a method may have been overloaded under."""
    known = (name.rpartition(".")[2] for name in _names().get(func, ()))
    for name in (func.__name__, *known):
        yield name
        bare = name.removeprefix("__").removesuffix("__")
        yield from (bare, f"__{bare}__", _OTHER_NAMES.get(bare, bare))


@functools.cache
def _names() -> dict[Any, list[str]]:
    """Names of torch's functions and of the methods of tensors; some have several: ``torch.conv2d`` is ``F.conv2d``."""
    found: dict[Any, list[str]] = {}
    for path in ("torch.Tensor", "torch", "torch.nn.functional", "torch.linalg", "torch.special", "torch.fft"):
        place = functools.reduce(getattr, path.split(".")[1:], torch)
        for name in dir(place):
            value = getattr(place, name, None)
            if isinstance(value, _FUNCTIONS):
                found.setdefault(value, []).append(f"{path}.{name}")
    return found


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)


def function_name(func: Any) -> str:
    """The name by which users know a function, such as torch.nn.functional.relu or torch.Tensor.add."""
    known = _names().get(func)
    if known:
        return known[0]
    return f"{getattr(func, '__module__', None) or 'torch'}.{getattr(func, '__name__', func)}"


def is_method(func: Any) -> bool:
    """Whether a function is a method of tensors, or reads or writes an attribute of theirs."""
    return isinstance(func, types.MethodWrapperType) or function_name(func).startswith("torch.Tensor.")
