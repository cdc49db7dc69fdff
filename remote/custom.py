"""``AbstractTensor``: a tensor type of the user's own, laid around another tensor.

A layer is a ``torch.Tensor`` without data that holds a ``child``: a plain, shared, fixed-precision or remote tensor,
or another layer. PyTorch hands it every function and method called on it. One the type has overloaded goes there; any
other is computed on the children, and the results get the layer again. So autograd records what happens to the
innermost tensors, the ones with data, and a layer works around any kind of tensor that PyTorch's functions work on.

    x = LoggingTensor().on(torch.tensor([1.0, 2.0], requires_grad=True))
    (x * x).sum().backward()
    x.grad                    LoggingTensor>tensor([2., 4.]), a layer around x.child.grad
"""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sharetorch.autograd.extremes import Extreme
from sharetorch.mpc.errors import (
    EmptyLayerError,
    LayerMismatchError,
    LostGradientError,
    NotATensorError,
)
from sharetorch.remote.overload import OverloadedFunction, OverloadedMethod, Overloads, function_name, is_method


class AbstractTensor(torch.Tensor):
    """Base of tensor types of the user's own.

    A subclass overloads methods and functions with ``overloaded``, or only watches with ``on_function_call``. Settings
    are arguments of its ``__init__``, which ``get_class_attributes`` gives again for the results.

    ``x.grad`` is a layer around ``x.child.grad``, and so is every other attribute that is a tensor. Operations in place
    change the child and give the same ``x`` again.

    Args:
        owner: accepted for the tutorials' sake, as are the next three; tags and descriptions belong to the child.
        id: see above.
        tags: see above.
        description: see above.

    Attributes:
        overloads: what the type does differently.
        layer: tells other tensor types that operations with this one are not theirs to compute.
    """

    overloads: ClassVar[Overloads] = Overloads()
    layer = True
    _child: Tensor | None = None

    @staticmethod
    def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
        """A layer around nothing yet; ``on`` makes the tensor."""
        return torch.Tensor._make_wrapper_subclass(cls, (0,))

    def __init__(self, owner: Any = None, id: Any = None, tags: Any = None, description: Any = None) -> None:
        """Nothing to set."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.overloads = Overloads.of(cls)

    # ------------------------------------------------------------------------------------------------ for subclasses

    def get_class_attributes(self) -> dict[str, Any]:
        """Arguments of ``__init__`` that make a layer with the same settings; results of operations get them."""
        return {}

    @classmethod
    def on_function_call(cls, command: tuple[str, None, tuple[Any, ...], dict[str, Any]]) -> None:
        """Called before each function of torch that has no overload; does nothing unless overridden.

        Args:
            command: name of the function such as ``"torch.div"``, None, and its arguments without their layer.
        """

    # ------------------------------------------------------------------------------------------------- making layers

    def on(self, tensor: Tensor, wrap: bool = True) -> Any:
        """Lay this type, with the settings of ``self``, around a tensor.

        Args:
            tensor: any tensor, which becomes the child: it is not copied, and its graph goes on.
            wrap: accepted for the tutorials' sake; there is nothing around a layer but other layers.

        Raises:
            NotATensorError: not a tensor.
        """
        if not isinstance(tensor, Tensor):
            raise NotATensorError(
                f"{type(self).__name__} goes around a tensor, not around {type(tensor).__name__}; "
                "make it one with torch.tensor(...)."
            )
        made = torch.Tensor._make_wrapper_subclass(type(self), tensor.shape, dtype=tensor.dtype, device=tensor.device)
        type(self).__init__(made, **self.get_class_attributes())
        made._child = tensor
        return made

    @property
    def child(self) -> Any:
        """The tensor inside.

        Raises:
            EmptyLayerError: the layer is around nothing yet.
        """
        if self._child is None:
            name = type(self).__name__
            raise EmptyLayerError(f"This {name} is around no tensor yet; lay it around one: {name}().on(x).")
        return self._child

    # -------------------------------------------------------------------------------------------- PyTorch's functions

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The overload of the outermost layer if there is one, else the same function one layer further in."""
        kwargs = kwargs or {}
        owner = outermost((args, kwargs))
        if owner is None:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return owner._apply(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The few operations that PyTorch starts by itself, such as indexing a plain tensor by a layer.

        Raises:
            LostGradientError: below autograd nothing is recorded, so the gradient of a child would be lost.
        """
        kwargs = kwargs or {}
        owner: Any = outermost((args, kwargs))
        if torch.is_grad_enabled() and any(layer.child.requires_grad for layer in _layers((args, kwargs))):
            raise LostGradientError(
                f"PyTorch reached {func} without passing through {type(owner).__name__}, so the gradient of its child "
                "would be lost. Begin with a method of the tensor itself (for example y.backward()), or detach it."
            )
        return _Passage(owner).run(func, args, kwargs)

    def _apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function or method, with ``self`` the outermost layer."""
        passage = _Passage(self)
        if is_method(func):
            method = self.overloads.method(func)
            return passage.run(func if method is None else self._bound(method), args, kwargs)
        found = self.overloads.functions.get(func)
        if isinstance(found, OverloadedFunction):
            return passage.run(found.implementation, args, kwargs)
        if found is not None:
            return found(*args, **kwargs)
        inner, inner_kwargs = passage.inwards(args), passage.inwards(kwargs)
        self.on_function_call((function_name(func), None, inner, inner_kwargs))
        return passage.outwards(func(*inner, **inner_kwargs))

    def _bound(self, method: OverloadedMethod) -> Callable[..., Any]:
        return lambda *args, **kwargs: method.implementation(self, *args, **kwargs)

    def call_overloaded(self, method: OverloadedMethod, *args: Any, **kwargs: Any) -> Any:
        """Call an overloaded method on this tensor; a layer further out, among the arguments, goes first."""
        owner: Any = outermost((self, args, kwargs))
        if not isinstance(owner, type(self)):
            return getattr(torch.Tensor, method.name)(self, *args, **kwargs)
        return _Passage(owner).run(owner._bound(method), (self, *args), kwargs)

    # ------------------------------------------------------------------------------------------------ Python's methods

    def has_child(self) -> bool:
        """Whether the layer is around a tensor."""
        return self._child is not None

    def wrap(self, *args: Any, **kwargs: Any) -> Any:
        """The layer itself: nothing goes around it but other layers."""
        return self

    @property
    def is_wrapper(self) -> bool:
        """Whether this is a tensor without data of its own, which a layer always is."""
        return True

    def __getattr__(self, name: str) -> Any:
        """What tensors in general do not have, the child may: a location, an encoding."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        value = getattr(self.child, name)
        return _forwarded(name).__get__(self) if callable(value) else _Passage(self).outwards(value)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        name = f"Parameter>{type(self).__name__}" if isinstance(self, nn.Parameter) else type(self).__name__
        return f"{name}>{'(nothing)' if self._child is None else repr(self._child)}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = self.on(copying.deepcopy(self.child, memo))
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _laid, (type(self), self.child, self.get_class_attributes())


def _laid(kind: type[AbstractTensor], child: Tensor, attributes: dict[str, Any]) -> Any:
    """A saved layer anew."""
    return kind(**attributes).on(child)


# ------------------------------------------------------------------------------ methods that ShareTorch adds to tensors


def _forwarded(name: str) -> Callable[..., Any]:
    """A method that acts on the child and lays the layer around its results."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        passage = _Passage(self)
        inner = getattr(passage.inwards(self), name)
        return passage.run(inner, args, kwargs)

    method.__name__ = name
    method.__doc__ = f"``{name}`` of the child; its results get the layer."
    return method


def _forwarded_attribute(name: str) -> property:
    """An attribute of the child."""

    def read(self: Any) -> Any:
        return getattr(self.child, name)

    def write(self: Any, value: Any) -> None:
        setattr(self.child, name, value)

    return property(read, write, doc=f"``{name}`` of the child.")


METHODS = (
    *("share", "share_", "refresh", "encrypt", "decrypt"),
    *("fix_precision", "fix_precision_", "fix_prec", "fix_prec_"),
    *("float_precision", "float_precision_", "float_prec", "float_prec_"),
    *("send", "send_", "get", "get_", "move", "move_", "copy"),
    *("remote_get", "remote_send", "mid_get", "create_pointer", "combine", "attr"),
    *("tag", "describe", "allow", "private_tensor"),
)
"""Methods that ShareTorch adds to tensors; a layer passes them on to its child."""

ATTRIBUTES = (
    *("id", "owner", "location", "id_at_location", "tags", "description"),
    *("garbage_collection", "gc", "disable_gc"),
)
"""Attributes that ShareTorch may add to tensors; a layer reads them from its child."""

for _name in METHODS:
    setattr(AbstractTensor, _name, _forwarded(_name))
for _name in ATTRIBUTES:
    setattr(AbstractTensor, _name, _forwarded_attribute(_name))


# --------------------------------------------------------------------------------------------- through a layer and back


def _layers(value: Any) -> Iterator[AbstractTensor]:
    """Layers among arguments, without those inside other layers."""
    if isinstance(value, AbstractTensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _layers(part)
    elif isinstance(value, dict):
        yield from _layers(tuple(value.values()))


def _kinds_inside(layer: AbstractTensor) -> Iterator[type]:
    """Types of the layers inside a layer."""
    child = layer._child
    while isinstance(child, AbstractTensor):
        yield type(child)
        child = child._child


def outermost(arguments: Any) -> AbstractTensor | None:
    """The first layer among arguments whose type lies around all others, or None if there are no layers.

    Raises:
        LayerMismatchError: two types of which neither is around the other.
    """
    layers = list(_layers(arguments))
    for layer in layers:
        inside = {kind for other in layers if type(other) is type(layer) for kind in _kinds_inside(other)}
        if all(isinstance(other, type(layer)) or type(other) in inside for other in layers):
            return layer
    if not layers:
        return None
    names = " and ".join(dict.fromkeys(type(layer).__name__ for layer in layers))
    raise LayerMismatchError(
        f"Tensors of the types {names} meet, and neither is laid around the other, so it is open which of them "
        f"decides. Lay one around the other first, for example {type(layers[0]).__name__}().on(y), or use y.child."
    )


class _Passage:
    """One call through a layer: arguments lose it, results get it.

    A result that is one of the arguments, as after an operation in place, is that argument again.
    """

    def __init__(self, owner: AbstractTensor) -> None:
        self.owner = owner
        self.arguments: dict[int, Tensor] = {}

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function with arguments without their layer."""
        return self.outwards(function(*self.inwards(args), **self.inwards(kwargs)))

    def inwards(self, value: Any) -> Any:
        """Arguments without the layer."""
        if isinstance(value, Tensor):
            inner = value.child if isinstance(value, type(self.owner)) else value
            self.arguments.setdefault(id(inner), value)
            return inner
        return _with_parts(value, self.inwards)

    def outwards(self, value: Any) -> Any:
        """Results with the layer."""
        if isinstance(value, Tensor):
            known = self.arguments.get(id(value))
            return self.owner.on(value) if known is None else known
        if isinstance(value, Extreme):
            return Extreme(self.outwards(value.values), self.outwards(value.indices))
        return _with_parts(value, self.outwards)


def _with_parts(value: Any, change: Callable[[Any], Any]) -> Any:
    """A list, tuple or dict with its parts changed; anything else, and what has no part that changes, as it is."""
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    parts = [change(part) for part in value]
    if all(part is old for part, old in zip(parts, value, strict=True)):
        return value
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
