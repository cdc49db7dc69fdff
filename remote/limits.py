"""How large the results of an operation may be: found out before any memory is taken.

Most operations pass on a product: no result has more elements than the product of the numbers of elements and of the
integers it is made from. Where the product is too large to settle it, the operation is tried on tensors without data
(``remote/signatures.py``). What depends on values has a bound of its own.

Not limited is time: a worker computes what it is asked for to the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import LimitExceededError, MalformedRequestError
from sharetorch.remote import signatures

if TYPE_CHECKING:
    from sharetorch.remote.node import Node
    from sharetorch.remote.operators import Operator

_ELEMENT = 64
"""Bytes for one element of all results together: up to four results of 16 bytes."""

_ENOUGH = 1 << 62

NO_LARGER = {
    "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data", "clone",
    "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "mean", "native_batch_norm",
    "native_batch_norm_backward", "native_layer_norm", "native_layer_norm_backward", "nll_loss_backward",
    "nll_loss_forward", "ones_like", "sum", "zeros_like",
}  # fmt: skip
"""Operations whose results have no more elements than their operands together.

Windows of a pool reach beyond the input by half a window at most, so that there is one more of them than places in each
direction: two results of four times as many elements, 16 bytes for both.
"""

UNBOUND = {
    "arange", "block_diag", "cholesky_inverse", "diag_embed", "eye", "linalg_lu", "linalg_lu_factor",
    "linalg_lu_factor_ex", "linalg_qr", "_linalg_svd", "_linalg_eigh", "lu_unpack", "_pdist_forward",
}  # fmt: skip
"""Operations whose results may exceed the product; those that take factors as real numbers are added by name."""


def check(node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse an operation whose results would be larger than the node allows.

    Views take no memory, and what is written in place has its memory already; ``require_fit`` looks at the size of
    views when they are kept.

    Raises:
        LimitExceededError: a result would be larger than ``object_bytes``, or all together than what ``store_bytes``
        leaves.
        Exception: what torch raises for operands that do not fit.
    """
    if operator.several:
        _check_count(node, operator, args, kwargs)
    if operator.view or operator.in_place:
        return
    room = min(node.limits.object_bytes, node.limits.store_bytes - node.objects.bytes)
    if operator.no_larger and not kwargs:
        elements = _elements(args, operator.pointwise)
        if elements is not None and elements * _ELEMENT <= room:
            return
    bound = _BOUNDS.get(operator.base)
    if bound is not None and not kwargs and bound(*args) <= room:
        return
    if operator.bounded and _product(args) * (_product(kwargs.values()) if kwargs else 1) * _ELEMENT <= room:
        return
    _check_exactly(node, operator, args, kwargs)


def _check_count(node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Parts of a tensor are objects, even where they take no memory."""
    count = PARTS.get(operator.base)
    if count is None:
        return
    placed, _ = operator.placed(args, kwargs)
    try:
        parts = count(*placed)
    except (TypeError, AttributeError, IndexError, ZeroDivisionError):
        return  # torch says what is wrong
    room = node.limits.objects - len(node.objects)
    if parts > min(room, _PARTS):
        raise LimitExceededError(
            f"{operator.name} would give {parts} tensors; {node.id} makes up to {_PARTS} at once and "
            f"has room for {room} objects."
        )


def _elements(args: list[Any], alike: bool) -> int | None:
    """Elements of all tensors together; None where they shall be alike and are not: their product might be large."""
    count, shape = 0, None
    for value in args:
        if type(value) is Tensor:
            if alike and value.dim():
                if shape is not None and value.shape != shape:
                    return None
                shape = value.shape
            count += (value.numel() or _without_zeros(value)) + 1
        elif isinstance(value, (Tensor, list)) and not all(type(part) in (int, float, bool) for part in value):
            return None
    return count


def _without_zeros(x: Tensor) -> int:
    """What an operation along its sizes of 0, such as a sum, may make of an empty tensor."""
    return math.prod(max(size, 1) for size in x.shape)


def _product(values: Any) -> int:
    """No result has more elements than this, for most operations."""
    count = 1
    for value in values:
        kind = type(value)
        if kind is Tensor:
            count *= (value.numel() or _without_zeros(value)) + 1
        elif kind is int:
            count *= abs(value) + 1
        elif kind is list:
            count *= _product(value)
        elif isinstance(value, Tensor):
            count *= (value.numel() or _without_zeros(value)) + 1
        if count > _ENOUGH:
            break
    return count


def _check_exactly(node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> None:
    own = OWN.get(operator.base)
    sizes = [_own(operator, own, args, kwargs)] if own is not None else _tried(node, operator, args, kwargs)
    largest, total = max(sizes, default=0), sum(sizes) + _passing(operator, args)
    if largest > node.limits.object_bytes:
        raise _too_large(node, operator.name, largest)
    require_room(node, total, operator.name)


def _own(operator: Operator, bound: Callable[..., int], args: list[Any], kwargs: dict[str, Any]) -> int:
    placed, named = operator.placed(args, kwargs)
    try:
        return bound(*placed, **named)
    except (TypeError, AttributeError, IndexError) as error:
        raise MalformedRequestError(f"Arguments {operator.name} does not take: {operator.overload._schema}.") from error


def _tried(node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> list[int]:
    """Bytes of each result."""
    try:
        forms = signatures.results(operator.overload, *args, **kwargs)
    except NotImplementedError as error:
        raise LimitExceededError(
            f"How large the results of {operator.name} would be cannot be told beforehand, and by the "
            "sizes of its operands "
            f"they might exceed what {node.id} allows ({node.limits.object_bytes} bytes for an object). "
            "Use smaller operands."
        ) from error
    except Exception:
        if operator.in_place:
            return []  # It takes no memory for results; torch itself says what is wrong.
        raise
    return [form.bytes for form in forms if form is not None]


def _too_large(node: Node, what: str, size: int) -> LimitExceededError:
    return LimitExceededError(
        f"{what} would give {size} bytes; {node.id} holds up to {node.limits.object_bytes} in one "
        "object. Work in parts."
    )


def require_room(node: Node, size: int, what: str) -> None:
    """Refuse what does not fit into the store any more.

    Raises:
        LimitExceededError: all objects together would exceed ``store_bytes``.
    """
    if size > node.limits.store_bytes - node.objects.bytes:
        raise LimitExceededError(
            f"{what} needs {size} bytes; {node.id} holds {node.objects.bytes} of "
            f"{node.limits.store_bytes} already. Delete "
            "objects first."
        )


def require_fit(node: Node, value: Any) -> None:
    """Refuse an object whose elements, written out, would be larger than the node allows.

    Raises:
        LimitExceededError: it is larger than ``object_bytes``.
    """
    if isinstance(value, Tensor):
        size = value.numel() * value.element_size()
        if size > node.limits.object_bytes:
            raise _too_large(node, f"A tensor of shape {list(value.shape)}", size)


# -------------------------------------------------------------------------------------- results that depend on values


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _broadcast(*tensors: Tensor) -> int:
    """Elements of these tensors, broadcast."""
    return torch.Size(torch.broadcast_shapes(*[x.shape for x in tensors])).numel()


def _nonzero(self: Tensor) -> int:
    return self.numel() * max(self.dim(), 1) * 8


def _masked_select(self: Tensor, mask: Tensor) -> int:
    return _broadcast(self, mask) * self.element_size()


def _unique(self: Tensor, *_: Any, **__: Any) -> int:
    return _bytes(self) + 16 * self.numel()


def _largest(x: Tensor) -> int:
    return int(x.max()) if x.numel() and type(x) in signatures.PLAIN and not x.is_complex() else 0


def _bincount(self: Tensor, weights: Tensor | None = None, minlength: int = 0) -> int:
    return 8 * max(_largest(self) + 1, minlength)


def _repeat_interleave(repeats: Tensor, *_: Any, output_size: int | None = None, **__: Any) -> int:
    return 8 * int(repeats.clamp(min=0).double().sum()) if type(repeats) in signatures.PLAIN else 0


def _one_hot(self: Tensor, num_classes: int = -1) -> int:
    return 8 * self.numel() * max(_largest(self) + 1, num_classes)


def _geqrf(self: Tensor) -> int:
    return 2 * _bytes(self)


def _lstsq(self: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    rows = max(*self.shape[-2:], 1) if self.dim() > 1 else 1
    columns = b.shape[-1] if b.dim() > 1 else 1
    batches = _broadcast(self[..., 0, 0], b[..., 0, 0]) if self.dim() > 1 and b.dim() > 1 else 1
    return 3 * batches * rows * (columns + (self.shape[-1] if self.dim() else 1)) * self.element_size()


def _histogram(self: Tensor, bins: Any, *_: Any, **__: Any) -> int:
    count = bins.numel() if isinstance(bins, Tensor) else max(bins, 0)
    return 2 * (count + 1) * self.element_size()


def _grid(self: Tensor, bins: list[Any], *_: Any, **__: Any) -> int:
    count = 1
    for size in bins:
        count *= size.numel() if isinstance(size, Tensor) else max(size, 0) + 1
    return (count + sum(size.numel() if isinstance(size, Tensor) else size + 1 for size in bins)) * self.element_size()


def _like_second(grad: Tensor, self: Tensor, *_: Any, **__: Any) -> int:
    return _bytes(self)


OWN: dict[str, Callable[..., int]] = {
    "nonzero": _nonzero,
    "masked_select": _masked_select,
    "_unique": _unique,
    "_unique2": _unique,
    "unique_dim": _unique,
    "unique_consecutive": _unique,
    "bincount": _bincount,
    "repeat_interleave": _repeat_interleave,
    "one_hot": _one_hot,
    "geqrf": _geqrf,
    "linalg_lstsq": _lstsq,
    "histogram": _histogram,
    "_histogramdd_bin_edges": _grid,
    "_histogramdd_from_bin_cts": _grid,
    "_histogramdd_from_bin_tensors": _grid,
    "multi_margin_loss_backward": _like_second,
    "multilabel_margin_loss_backward": _like_second,
}
"""Bytes of all results, at most, for operations that torch cannot try without values; by name."""


# ----------------------------------------------------------------------------------- memory that is taken for a while


_PARTS = 100_000


def _by_size(self: Tensor, size: int | list[int], dim: int = 0) -> int:
    return len(size) if isinstance(size, list) else int(-(-self.shape[dim] // size))


PARTS: dict[str, Callable[..., int]] = {
    "unbind": lambda self, dim=0: self.shape[dim],
    "unbind_copy": lambda self, dim=0: self.shape[dim],
    "split": _by_size,
    "split_copy": _by_size,
    "unsafe_split": _by_size,
    "unsafe_chunk": lambda self, chunks, dim=0: chunks,
}
"""How many tensors an operation gives, by name."""


def _convolved(
    input: Any = None, weight: Any = None, bias: Any = None, stride: Any = None, padding: Any = None,
    dilation: Any = None, transposed: Any = True, *_: Any,
) -> int:  # fmt: skip
    """No more windows than places of the padded input in each direction."""
    if transposed is not False or not _dense(input, weight) or set(map(type, padding or ())) != {int}:
        return _ENOUGH
    around = 2 * max(0, *padding)
    places = math.prod([size + around for size in input.shape[2:]])
    return int(input.shape[0] * weight.shape[0] * places * _ELEMENT + _columns([input, weight]))


def _convolved_backward(grad: Any = None, input: Any = None, weight: Any = None, bias: Any = None, *_: Any) -> int:
    """As much as input, weight and bias."""
    if not _dense(input, weight) or not (bias is None or (type(bias) is list and set(map(type, bias)) == {int})):
        return _ENOUGH
    biases = 0 if bias is None else math.prod(bias)
    return int((input.numel() + weight.numel() + abs(biases)) * _ELEMENT + _columns([input, weight]))


def _dense(input: Any, weight: Any) -> bool:
    """Whether these are what is folded usually: all else is tried."""
    return (
        isinstance(input, Tensor) and isinstance(weight, Tensor) and input.dim() == weight.dim() > 2
        and input.numel() > 0 and weight.numel() > 0
    )  # fmt: skip


_BOUNDS: dict[str, Callable[..., int]] = {
    "convolution": _convolved,
    "convolution_backward": _convolved_backward,
}
"""Bytes of all results and of what passes, at most, where the product is far above it; by name."""


def _columns(args: list[Any]) -> int:
    """What a convolution may write out: every window of the input."""
    x, weight = (args[1], args[2]) if len(args) > 9 and isinstance(args[2], Tensor) else (args[0], args[1])
    windows = weight.numel() // max(weight.shape[0], 1)
    places = x.numel() // max(x.shape[1] * x.shape[0], 1) if x.dim() > 1 else x.numel()
    return int(windows * places * x.element_size())


def _gamma(args: list[Any]) -> int:
    return _bytes(args[0]) * abs(int(args[1]))


_PASSING: dict[str, Callable[[list[Any]], int]] = {
    "convolution": _columns,
    "convolution_backward": _columns,
    "mvlgamma": _gamma,
    "mvlgamma_": _gamma,
}


def _passing(operator: Operator, args: list[Any]) -> int:
    """Bytes an operation takes besides its results, where that is much."""
    needs = _PASSING.get(operator.base)
    try:
        return 0 if needs is None else needs(operator.placed(args, {})[0])
    except (TypeError, AttributeError, IndexError):
        return 0  # torch says what is wrong
