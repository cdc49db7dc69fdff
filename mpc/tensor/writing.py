"""Operations that change a shared tensor in place, seen through all views of it: compute the result, then write it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import MismatchError, ShapeError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import Encoding
from sharetorch.mpc.ring import WideField
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.encodings import as_shared, collocated, common, to_encoding
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import on_shadows

_aten = torch.ops.aten


_OTHER_NAMES = {
    _aten.pow_.Scalar: _aten.pow.Tensor_Scalar,
    _aten.transpose_.default: _aten.transpose.int,
}
"""Out-of-place forms with another overload name."""


def in_place(func: Any) -> Any:
    """The handler of an in-place form; None if there is no out-of-place form of that name."""
    name, _, overload = func.__name__.partition(".")
    if not name.endswith("_") or name.endswith("__"):
        return None
    plain = _OTHER_NAMES.get(func) or getattr(getattr(_aten, name[:-1], None), overload, None)
    if plain is None:
        return None
    change = _reshaped if torch.Tag.inplace_view in func.tags else _written

    def handler(_: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(target, SharedTensor):
            raise MismatchError(
                f"{func} would write a secret into a plain tensor{user_line()}; share the target first, or use the "
                "form that returns a new tensor."
            )
        return change(func, target, shared.dispatch(plain, (target, *args), kwargs), args, kwargs)

    return handler


shared.additions.families.append(in_place)


def _written(func: Any, target: SharedTensor, result: Any, args: Any, kwargs: Any) -> SharedTensor:
    write(target, result)
    return target


def _reshaped(func: Any, target: SharedTensor, result: SharedTensor, args: Any, kwargs: Any) -> SharedTensor:
    """Let ``target`` become the view of itself that ``result`` is (``t_``, ``squeeze_``, ...)."""
    with torch.utils._mode_utils.no_dispatch():
        func(target, *args, **kwargs)
    target.handle, target.shadow = result.handle, result.shadow
    return target


def write(target: SharedTensor, source: Any) -> None:
    """Replace the contents of ``target``.

    Raises:
        ShapeError: the source does not broadcast to the target.
        MismatchError: reals written into integers.
    """
    source = _source(target, source)
    collocated(target, source)
    require_writable(target, source.shadow, source.encoding)
    if source.encoding.integer or source.encoding.scale <= target.encoding.scale:
        source = to_encoding(source, target.encoding)
    _write(target, (source,), (1,), source.encoding)
    if target.mark is not None and not source.bits:
        target.mark.bits = False


def write_sum(
    target: SharedTensor,
    shadow: Tensor,
    operands: tuple[SharedTensor, ...],
    factors: tuple[int, ...],
    encoding: Encoding,
) -> None:
    """Replace the contents of ``target``, which holds reals, by a sum of factors times operands, in one command.

    Args:
        target: written to.
        shadow: shape and dtype of the sum.
        operands: summands.
        factors: public integers.
        encoding: of the sum, with at least the digits of ``target``.

    Raises:
        ShapeError: the sum does not broadcast to the target.
    """
    require_writable(target, shadow, encoding)
    _write(target, operands, factors, encoding)
    if target.mark is not None:
        target.mark.bits = False


class Sum(NamedTuple):
    """What ``write_sum`` takes."""

    target: SharedTensor
    shadow: Tensor
    operands: tuple[SharedTensor, ...]
    factors: tuple[int, ...]
    encoding: Encoding


def write_sums(sums: Sequence[Sum]) -> None:
    """``write_sum`` for several targets: one command for all that belong to one session and lose as many digits."""
    alike: defaultdict[Any, list[Sum]] = defaultdict(list)
    for entry in sums:
        require_writable(entry.target, entry.shadow, entry.encoding)
        common([entry.encoding, entry.target.encoding])
        held = entry.target.encoding
        alike[entry.target.session, held.base ** _surplus(entry.encoding, held), held.truncation].append(entry)
    for (session, divisor, method), entries in alike.items():
        _write_together(session, divisor, method, entries)


def _write_together(session: Session, divisor: int, method: str, sums: Sequence[Sum]) -> None:
    numbers: list[int] = []
    writes = []
    for entry in sums:
        first = len(numbers)
        numbers += [entry.target.handle.number, *(operand.handle.number for operand in entry.operands)]
        writes.append((first, tuple(range(first + 1, len(numbers))), entry.factors))
    made = session.command(
        "write_all", *numbers, outputs=len(sums), writes=tuple(writes), divisor=divisor, method=method
    )
    for entry, number in zip(sums, made, strict=True):
        session.free(number)
        if entry.target.mark is not None:
            entry.target.mark.bits = False


def require_writable(target: SharedTensor, shadow: Tensor, encoding: Encoding) -> None:
    """Refuse to write a sum of that shape and encoding to a target.

    Raises:
        MismatchError: reals into integers.
        UnsupportedOperationError: a tensor over a modulus beyond a word.
        ShapeError: the sum does not broadcast to the target, or the target's elements overlap.
    """
    if target.encoding.integer and not encoding.integer:
        raise MismatchError(f"Real numbers cannot be written into a tensor of integers{user_line()}; convert it first.")
    if isinstance(target.session.ring, WideField):
        raise UnsupportedOperationError(
            "Tensors over a modulus beyond a word cannot be changed in place; use a new one."
        )
    if shadow.shape != target.shape:
        on_shadows(_aten.copy_.default, (target, shadow), {})
    if torch._debug_has_internal_overlap(target.shadow) == 1:
        raise ShapeError(
            f"Several elements of the tensor written to are one and the same, as after expand{user_line()}; "
            "clone() it first."
        )


def _surplus(encoding: Encoding, held: Encoding) -> int:
    """Digits a sum has more than the target keeps."""
    return 0 if encoding.integer else encoding.scale - held.scale


def _write(
    target: SharedTensor, operands: tuple[SharedTensor, ...], factors: tuple[int, ...], encoding: Encoding
) -> None:
    """Write a sum, truncated to the digits of the target on the way."""
    common([encoding, target.encoding])
    (number,) = target.session.command(
        "write",
        target.handle.number,
        *(operand.handle.number for operand in operands),
        factors=factors,
        divisor=target.encoding.base ** _surplus(encoding, target.encoding),
        method=target.encoding.truncation,
    )
    target.session.free(number)


def _source(target: SharedTensor, source: Any) -> SharedTensor:
    """What is to be written, shared; whole numbers fit into integers whatever their Python type."""
    whole = isinstance(source, float) and source.is_integer()
    return as_shared(int(source) if whole and target.encoding.integer else source, target)


@aten(_aten.copy_.default)
def copy_(func: Any, target: Any, source: Any, non_blocking: bool = False) -> Any:
    """Write a shared or plain tensor into a shared one."""
    if not isinstance(target, SharedTensor):
        raise MismatchError(
            f"A secret cannot be copied into a plain tensor{user_line()}; open it with x.get() if it may be seen."
        )
    write(target, source)
    return target


@aten(_aten.fill_.Scalar, _aten.fill_.Tensor)
def fill_(func: Any, target: Any, value: Any) -> Any:
    """Write one value everywhere."""
    return copy_(func, target, value)


@aten(_aten.zero_.default)
def zero_(func: Any, target: SharedTensor) -> SharedTensor:
    """Write zeros."""
    write(target, 0)
    return target
