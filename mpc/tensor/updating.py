"""In-place sums and products with a factor, the steps of an optimizer: one command and one truncation each.

The multi-tensor forms that optimizers have (``torch._foreach_*``) do it for all parameters in the same rounds. Momentum
is three of them: b *= m, b += g, p -= l b. The first two wait for the third, and all become one command with one
opening (``protocols.scaled_truncation``), of which gradients of weights that still wait (``pending.Gradient``) are
part.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sharetorch.mpc.fixedpoint import Encoding
from sharetorch.mpc.protocols.scaled_truncation import Scaling
from sharetorch.mpc.ring import WORD_BITS, PowerRing
from sharetorch.mpc.session import Waiting
from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.arithmetic import Debug, check_factor, combination, is_scalar, multiple
from sharetorch.mpc.tensor.encodings import collocated, common
from sharetorch.mpc.tensor.pending import Gradient, waiting
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import on_shadows
from sharetorch.mpc.tensor.writing import Sum, in_place, require_writable, write_sum, write_sums

_aten = torch.ops.aten


@aten(_aten.add_.Tensor)
def add_(func: Any, x: Any, y: Any, alpha: Any = 1) -> Any:
    """x += alpha * y."""
    if not (isinstance(x, SharedTensor) and isinstance(y, SharedTensor)) or x.encoding.integer:
        return in_place(func)(func, x, y, **({} if alpha == 1 else {"alpha": alpha}))
    shadow = on_shadows(_aten.add.Tensor, (x, y), {"alpha": alpha} if alpha != 1 else {})
    write_sum(x, shadow, *combination(x, y, alpha))
    return x


@aten(_aten.sub_.Tensor)
def subtract_(func: Any, x: Any, y: Any, alpha: Any = 1) -> Any:
    """x -= alpha * y."""
    return add_(_aten.add_.Tensor, x, y, -alpha)


@aten(_aten.mul_.Tensor, _aten.mul_.Scalar)
def multiply_(func: Any, x: Any, y: Any) -> Any:
    """x *= y."""
    if not isinstance(x, SharedTensor) or x.encoding.integer or not is_scalar(y):
        return in_place(func)(func, x, y)
    write_sum(x, x.shadow, *multiple(x, y))
    return x


def _all_real(*lists: Sequence[Any]) -> bool:
    return all(isinstance(x, SharedTensor) and not x.encoding.integer for tensors in lists for x in tensors)


def _place(x: Any) -> int:
    """Where a tensor's memory is."""
    place: int = x.shadow.untyped_storage()._cdata
    return place


def _apart(targets: Sequence[Any], sources: Sequence[Any]) -> bool:
    """Whether no target shares memory with another one, or with what is added to another one."""
    places = [_place(x) for x in targets]
    if len(set(places)) != len(places):
        return False
    place_of = {place: i for i, place in enumerate(places)}
    return all(place_of.get(_place(y), i) == i for i, y in enumerate(sources))


class Update(Waiting):
    """Sums to be written to tensors of one session, in base 2, that wait for a step made of them.

    Attributes:
        sums: what to write where; all lose as many digits.
        lost: how many.
    """

    writes = True

    def __init__(self, sums: Sequence[Sum], lost: int) -> None:
        self.session = sums[0].target.session
        self.sums = list(sums)
        self.lost = lost
        self._gradients: dict[int, int] = {}
        self._given = False
        self._asked = self.session.costs.asked()
        self.session.wait(self)

    def settle(self) -> None:
        """Write the sums, once."""
        if self._take():
            with self.session.costs.on_behalf(self._asked):
                write_sums(self.sums)

    def _take(self) -> bool:
        self.session.forget(self)
        given, self._given = self._given, True
        return not given

    def changes(self, xs: Sequence[Any]) -> bool:
        """Whether these are what the sums are written to."""
        return len(xs) == len(self.sums) and all(
            x.handle is part.target.handle and x.shape == part.target.shape
            for x, part in zip(xs, self.sums, strict=True)
        )

    def add(self, ys: Sequence[Any], alpha: Any) -> bool:
        """Add alpha * y to every sum; tells whether it could.

        Raises:
            MismatchError: a y is of another session, or of another precision.
        """
        whole, pairs = float(alpha).is_integer(), list(zip(self.sums, ys, strict=True))
        for part, y in pairs:
            collocated(part.target, y)
            common([part.encoding, y.encoding])
        fitting = all(
            y.shape == part.target.shape and y.encoding.base == 2 and y.encoding.scale <= part.encoding.scale
            for part, y in pairs
        )
        if not (whole and fitting and _apart([part.target for part in self.sums], ys)):
            return False
        more = self._room_for(ys) if alpha == 1 else 0
        gradients = {i: len(self.sums[i].operands) for i, y in enumerate(ys) if waiting(y, Gradient)} if more else {}
        scales = [part.encoding.scale + more for part in self.sums]
        factors = [
            (*(factor << more for factor in part.factors), int(alpha) << (scale - y.encoding.scale))
            for (part, y), scale in zip(pairs, scales, strict=True)
        ]
        for factor in itertools.chain.from_iterable(factors):
            check_factor(factor)
        self.sums = [
            part._replace(operands=(*part.operands, y), factors=by, encoding=part.encoding.at_scale(scale))
            for (part, y), by, scale in zip(pairs, factors, scales, strict=True)
        ]
        self.lost += more
        self._gradients |= gradients
        return True

    def _room_for(self, ys: Sequence[Any]) -> int:
        """Digits by which gradients that wait have more than the sums, before they are truncated; 0 if it is no use."""
        made = [waiting(y, Gradient) for y in ys]
        whole = {y.encoding.scale + by.digits for y, by in zip(ys, made, strict=True) if by}
        held = {part.encoding.scale for part in self.sums}
        most = min(part.encoding.sum_digits for part in self.sums)
        fits = len(whole) == len(held) == 1 and max(held) < max(whole) <= most
        return max(whole) - max(held) if fits else 0

    def step(self, ps: Sequence[Any], alpha: Any) -> bool:
        """Write the sums, and add alpha times them to ps; tells whether it could be done together."""
        targets = [part.target for part in self.sums]
        if len({p.session for p in ps} | {self.session}) > 1 or not self._apart_from(ps):
            return False
        found = [combination(p, x, alpha) for p, x in zip(ps, targets, strict=True)]
        scalings = {
            Scaling(self.lost, made.factors[1], made.encoding.scale - p.encoding.scale)
            for made, p in zip(found, ps, strict=True)
        }
        for p, x in zip(ps, targets, strict=True):
            require_writable(p, x.shadow, x.encoding)
        scaling = scalings.pop()
        alike = all(p.shape == x.shape and _halves(p.encoding) for p, x in zip(ps, targets, strict=True))
        if scalings or not alike or not scaling.fits(WORD_BITS) or not self._take():
            return False
        with self.session.costs.on_behalf(self._asked):
            self._descend(ps, scaling)
        return True

    def _apart_from(self, ps: Sequence[Any]) -> bool:
        """Whether ps share no memory with one another, nor with anything the sums read or write."""
        places = {_place(p) for p in ps}
        read = {_place(x) for part in self.sums for x in (part.target, *part.operands)}
        return len(places) == len(ps) and places.isdisjoint(read)

    def _unmade(self, ps: Sequence[Any]) -> dict[int, Gradient]:
        """Gradients that still wait and read nothing that is written, by the number of their sum."""
        found = {i: waiting(self.sums[i].operands[place], Gradient) for i, place in self._gradients.items()}
        written = {_place(x) for x in (*ps, *(part.target for part in self.sums))}
        read = {_place(x) for made in found.values() if made is not None for x in made.operands}
        return {i: made for i, made in found.items() if made is not None} if written.isdisjoint(read) else {}

    def _descend(self, ps: Sequence[Any], scaling: Scaling) -> None:
        unmade = self._unmade(ps)
        rows = []
        for i, (part, p) in enumerate(zip(self.sums, ps, strict=True)):
            left = self._gradients[i] if i in unmade else -1
            held = [(x, by) for k, (x, by) in enumerate(zip(part.operands, part.factors, strict=True)) if k != left]
            rows.append(_Row(part.target, tuple(x for x, _ in held), tuple(by for _, by in held), unmade.get(i), p))
        _descend(rows, scaling)


class _Row(NamedTuple):
    """What the command ``descend`` does to one parameter.

    Attributes:
        target: becomes the sum; None for a new object.
        operands: of the sum.
        factors: public integers, one for each operand.
        gradient: a product that waits, another operand; None for none.
        p: to which a multiple of the sum is added.
    """

    target: SharedTensor | None
    operands: tuple[SharedTensor, ...]
    factors: tuple[int, ...]
    gradient: Gradient | None
    p: SharedTensor


def _descend(rows: Sequence[_Row], scaling: Scaling) -> None:
    """Give the command. A gradient is done if its row has no target: then it is the row's sum."""
    numbers: list[int] = []
    steps, products = [], []
    for i, row in enumerate(rows):
        targets = () if row.target is None else (row.target,)
        first, begin = (-1, len(numbers)) if row.target is None else (len(numbers), len(numbers) + 1)
        second = begin + len(row.operands)
        numbers += [x.handle.number for x in (*targets, *row.operands, row.p)]
        steps.append((first, tuple(range(begin, second)), row.factors, second))
        if row.gradient is not None:
            products.append((i, row.gradient.function, len(numbers), len(numbers) + 1))
            numbers += [x.handle.number for x in row.gradient.operands]
    session = rows[0].p.session
    more = {"products": tuple(products)} if products else {}
    with session.without([row.gradient for row in rows if row.gradient is not None]):
        made = session.command(
            "descend", *numbers, outputs=2 * len(rows), steps=tuple(steps), scaling=tuple(scaling), **more
        )
    for row, moved, stepped in zip(rows, made[::2], made[1::2], strict=True):
        if row.target is None and row.gradient is not None:
            row.gradient.taken_over((moved,))
        else:
            session.free(moved)
        if row.gradient is not None:
            row.gradient.pass_over()
        session.free(stepped)
        for tensor in (row.target, row.p):
            if tensor is not None and tensor.mark is not None:
                tensor.mark.bits = False


def _halves(encoding: Encoding) -> bool:
    """Whether digits are cut off in base 2 and at random, as a command of both steps does it."""
    return encoding.base == 2 and encoding.truncation == "probabilistic"


def _waits(sums: Sequence[Sum]) -> bool:
    """Let sums wait for a step made of them, if they are of a kind of which one can be made."""
    kinds = {(part.target.session, part.encoding.scale - part.target.encoding.scale) for part in sums}
    (session, lost), *others = kinds
    held = [part.target.encoding for part in sums]
    if others or lost < 1 or session.provider is None or session.debug or Debug.enabled:
        return False
    if not isinstance(session.ring, PowerRing) or not all(_halves(encoding) for encoding in held):
        return False
    for part in sums:
        require_writable(part.target, part.shadow, part.encoding)
    Update(sums, lost)
    return True


@aten(_aten._foreach_add_.List)
def add_all(func: Any, xs: Sequence[Any], ys: Sequence[Any], *, alpha: Any = 1) -> None:
    """x += alpha * y for every pair."""
    if not _all_real(xs, ys) or not _apart(xs, ys):
        _one_by_one(func, xs, ys, alpha=alpha)
        return
    scaled = {} if alpha == 1 else {"alpha": alpha}
    shadows = [on_shadows(_aten.add.Tensor, pair, scaled) for pair in zip(xs, ys, strict=True)]
    if not _joined(xs, ys, alpha) and not _descended(xs, ys, alpha):
        sums = zip(xs, shadows, ys, strict=True)
        write_sums([Sum(x, shadow, *combination(x, y, alpha)) for x, shadow, y in sums])
    _changed(xs)


def _joined(xs: Sequence[Any], ys: Sequence[Any], alpha: Any) -> bool:
    """Whether x += alpha * y has been taken on by sums that wait."""
    for tensor in (*xs, *ys):
        if waiting(tensor, Gradient) is None:
            tensor.handle.number  # noqa: B018 (gives what must come before)
    update: Update | None = xs[0].session.waiting(Update)
    if update is None:
        return False
    return update.add(ys, alpha) if update.changes(xs) else update.changes(ys) and update.step(xs, alpha)


def _descended(ps: Sequence[Any], gs: Sequence[Any], alpha: Any) -> bool:
    """Whether p += alpha * g was done in one command that makes gradients of weights, too: the step of plain SGD."""
    found = [waiting(g, Gradient) for g in gs]
    pairs = list(zip(ps, gs, strict=True))
    whole = {g.encoding.scale + made.digits for g, made in zip(gs, found, strict=True) if made is not None}
    kept = {g.encoding.scale for g in gs}
    if len(whole) != 1 or len(kept) != 1 or Debug.enabled or ps[0].session.debug:
        return False
    alike = all(p.shape == g.shape and _halves(p.encoding) for p, g in pairs)
    if len({x.session for x in (*ps, *gs)}) > 1 or not alike:
        return False
    lost = whole.pop() - kept.pop()
    steps = [(p, combination(p, g, alpha)) for p, g in pairs]
    scaling, *others = {Scaling(lost, by.factors[1], by.encoding.scale - p.encoding.scale) for p, by in steps}
    most = min(g.encoding.sum_digits - g.encoding.scale for g in gs)
    read = [x for g, made in zip(gs, found, strict=True) for x in ((g,) if made is None else made.operands)]
    apart = {_place(p) for p in ps}.isdisjoint(map(_place, read))
    if others or not scaling.fits(WORD_BITS) or lost > most or not apart:
        return False
    for p, g in pairs:
        require_writable(p, g.shadow, g.encoding)
    _descend(
        [
            _Row(None, (g,), (1 << lost,), None, p) if made is None else _Row(None, (), (), made, p)
            for (p, g), made in zip(pairs, found, strict=True)
        ],
        scaling,
    )
    return True


@aten(_aten._foreach_mul_.Scalar)
def multiply_all(func: Any, xs: Sequence[Any], y: Any) -> None:
    """x *= y for every x."""
    if not _all_real(xs) or not _apart(xs, ()):
        _one_by_one(func, xs, y)
        return
    sums = [Sum(x, x.shadow, *multiple(x, y)) for x in xs]
    if not _waits(sums):
        write_sums(sums)
    _changed(xs)


def _changed(xs: Sequence[Any]) -> None:
    """Tell PyTorch that tensors were changed in place: it counts that for single tensors only."""
    torch.autograd.graph.increment_version(xs)


def _one_by_one(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A multi-tensor operation, tensor by tensor."""
    name, overload = func.__name__.removeprefix("_foreach_").split(".")
    packet = getattr(_aten, name)
    single = getattr(packet, {"List": "Tensor", "ScalarList": "Scalar"}.get(overload, overload), packet)
    listed = [isinstance(arg, (list, tuple)) for arg in args]
    made = [
        single(*(arg[i] if many else arg for arg, many in zip(args, listed, strict=True)), **kwargs)
        for i in range(len(args[0]))
    ]
    if not name.endswith("_"):
        return made
    _changed(args[0])
    return None


def _multi_tensor(func: Any) -> Any:
    """The handler of multi-tensor operations that have none of their own."""
    return _one_by_one if func.__name__.startswith("_foreach_") else None


shared.additions.families.insert(0, _multi_tensor)
