"""Training over several processes of every party: ``DataParallel``, used as PyTorch's own.

Rank k of every party and of the provider form lane k: a session of their own, with the same members. The model, the
data, the optimizer and the loss are in lane 0, like everything that is shared without thought of lanes. A call of a
``DataParallel`` module copies the weights' shares to the other lanes, splits the batch over the lanes, and gathers what
they compute; all lanes run at the same time, because commands are not waited for. In the backward pass every lane
computes the gradients of its part, and each party adds up its shares of them over its lanes by all-reduce.

Truncation rounds at random, so weights that every lane updated by itself would drift apart. They are updated in lane 0
alone, and copied bit by bit.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sharetorch.autograd.engine import apply
from sharetorch.mpc.errors import SessionEndedError, ShapeError, UnsupportedOperationError
from sharetorch.mpc.session import new_id
from sharetorch.mpc.tensor.shared import Handle, SharedTensor, fresh_shadow
from sharetorch.mpc.tensor.sharing import sessions
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.sessions.messages import AllReduce, Broadcast, Item, Join, Pass

_ENDED = b"\xa5ended"
"""How the tag of ``Ended`` begins in a notice."""


class Lanes:
    """Sessions of the same members, one for each rank, joined inside every party.

    Args:
        first: the session of the members' first processes.
        count: how many ranks to use.

    Attributes:
        sessions: one for each lane.

    Raises:
        UnsupportedOperationError: a member has fewer processes, or the ring is not that of 2^64.
        NetworkError: a process cannot be reached, or the processes of a member do not find each other.
    """

    def __init__(self, first: NetworkedSession, count: int) -> None:
        parties: Sequence[Any] = first.parties
        provider: Any = first.provider
        if first.ring.modulus != 1 << 64:
            raise UnsupportedOperationError("Lanes add up shares modulo 2^64; share the model without field=.")
        self.sessions = [first]
        for lane in range(1, count):
            ranks = [member.lane(lane) for member in parties]
            found = sessions.get(ranks, provider.lane(lane), first.ring, first.suite)
            assert isinstance(found, NetworkedSession)
            self.sessions.append(found)
        self._lock = threading.RLock()
        self._watch()
        ids = [session.id for session in self.sessions]
        for session in self.sessions:
            _say(session, "join", Join, ids)
        self.sync()

    @property
    def count(self) -> int:
        """How many lanes there are."""
        return len(self.sessions)

    @property
    def ended(self) -> bool:
        """Whether one of the sessions is over."""
        return any(session.ended or session._failure is not None for session in self.sessions)

    def sync(self) -> None:
        """Wait until everything commanded is done in all lanes, and raise what went wrong."""
        for session in self.sessions:
            session.sync()

    def all_reduce(
        self, rows: Sequence[Sequence[SharedTensor]], lanes: Sequence[int] = (0,)
    ) -> list[list[SharedTensor]]:
        """Sums over all lanes, by all-reduce inside each party.

        Args:
            rows: for each lane its summands; all lanes have as many, of the same shapes.
            lanes: which lanes get the sums.

        Returns:
            For each of ``lanes`` the sums.

        Raises:
            ShapeError: the lanes' summands do not fit together.
        """
        first = rows[0]
        shapes = [list(x.shape) for x in first]
        for row in rows[1:]:
            fits = [(x.shape, x.encoding) for x in row] == [(x.shape, x.encoding) for x in first]
            if not fits:
                raise ShapeError("Summands of different shapes or precisions in different lanes.")
        numbers = {lane: [new_id() for _ in shapes] for lane in lanes}
        with self._lock:
            for lane, (session, row) in enumerate(zip(self.sessions, rows, strict=True)):
                inputs, outputs = [x.handle.number for x in row], numbers.get(lane, [])
                _say(session, "all_reduce", AllReduce, inputs, outputs, shapes, made=outputs)
        return [
            [_wrapped(self.sessions[lane], number, x) for number, x in zip(numbers[lane], first, strict=True)]
            for lane in lanes
        ]

    def broadcast(self, tensors: Sequence[SharedTensor]) -> list[list[Handle]]:
        """Copies of objects of lane 0, for each other lane."""
        numbers = [x.handle.number for x in tensors]
        shapes = [list(x.shape) for x in tensors]
        copies = [numbers] + [[new_id() for _ in numbers] for _ in self.sessions[1:]]
        with self._lock:
            for session, given in zip(self.sessions, copies, strict=True):
                _say(session, "broadcast", Broadcast, given, shapes, made=[] if given is numbers else given)
        return [
            [Handle(session, number, x.encoding) for number, x in zip(given, tensors, strict=True)]
            for session, given in zip(self.sessions[1:], copies[1:], strict=True)
        ]

    def move(self, x: SharedTensor, source: int, target: int) -> SharedTensor:
        """A copy of a tensor of one lane in another; gradients go back the same way."""
        if source == target:
            return x
        moved: SharedTensor = apply(_Move, x, self, source, target)
        return moved

    def copy(self, x: SharedTensor, source: int, target: int) -> SharedTensor:
        """A copy of a tensor of one lane in another, without gradients."""
        number = new_id()
        shape = list(x.shape)
        with self._lock:
            for lane, held in ((source, x.handle.number), (target, number)):
                made = [number] if lane == target else []
                _say(self.sessions[lane], "pass", Pass, source, target, [held], [shape], made=made)
        copied = _wrapped(self.sessions[target], number, x)
        copied.bits = x.bits
        return copied

    def _watch(self) -> None:
        """Let the end of one session end all."""
        own = weakref.ref(self)

        def look(error: Exception | None = None) -> None:
            lanes = own()
            if lanes is not None:
                lanes._spread_failure()

        def hear(payload: bytes) -> None:
            if payload[1 : 1 + len(_ENDED)] == _ENDED:
                look()

        for session in self.sessions:
            for control in session._controls:
                control.on_notice.append(hear)
                control.on_close.append(look)

    def _spread_failure(self) -> None:
        failed = [
            (lane, session._failure) for lane, session in enumerate(self.sessions) if session._failure is not None
        ]
        for session in self.sessions:
            if failed and session._failure is None:
                lane, error = failed[0]
                ended = SessionEndedError(f"Lane {lane} has ended, and with it all others: {error}")
                ended.member = getattr(error, "member", None)
                ended.operation, ended.cause = getattr(error, "operation", None), type(error).__name__
                session.fail(ended)


def _say(
    session: NetworkedSession, name: str, kind: Callable[..., Item], *facts: Any, made: Sequence[int] = ()
) -> None:
    """Tell all members of a session something that counts as an operation, and makes objects of these numbers."""
    with session._sending:
        session._post(kind(session.id, session._begin(name), *facts))
    session._live.update(made)


def _wrapped(session: NetworkedSession, number: int, like: SharedTensor) -> SharedTensor:
    return SharedTensor(Handle(session, number, like.encoding), fresh_shadow(like.shadow))


class _Move(torch.autograd.Function):
    """A copy in another lane; the gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, x: SharedTensor, lanes: Lanes, source: int, target: int) -> SharedTensor:
        ctx.way = lanes, target, source
        return lanes.copy(x, source, target)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        lanes, source, target = ctx.way
        return lanes.copy(gradient, source, target), None, None, None


class _Spread(torch.autograd.Function):
    """Weights of lane 0 in every lane; gradients are summed over lanes."""

    @staticmethod
    def forward(ctx: Any, lanes: Lanes, copies: Sequence[Sequence[Handle]], *weights: SharedTensor) -> Any:
        ctx.lanes, ctx.count = lanes, len(weights)
        ctx.set_materialize_grads(False)
        handles = [[x.handle for x in weights], *copies]
        return tuple(SharedTensor(handle, x.shadow) for row in handles for handle, x in zip(row, weights, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        lanes, count = ctx.lanes, ctx.count
        rows = [gradients[start : start + count] for start in range(0, len(gradients), count)]
        wanted = [
            place
            for place in range(count)
            if ctx.needs_input_grad[2 + place] and any(r[place] is not None for r in rows)
        ]
        found: list[Any] = [None] * count
        if wanted:
            summands = [_filled(lanes.sessions[lane], rows, row, wanted) for lane, row in enumerate(rows)]
            (sums,) = lanes.all_reduce(summands)
            for place, total in zip(wanted, sums, strict=True):
                found[place] = total
        return None, None, *found


def _filled(
    session: NetworkedSession, rows: Sequence[Sequence[Any]], row: Sequence[Any], wanted: Sequence[int]
) -> list[SharedTensor]:
    """Gradients of a lane, with zeros where it has none and another has."""
    filled = []
    for place in wanted:
        gradient = row[place]
        if gradient is None:
            like = next(other[place] for other in rows if other[place] is not None)
            (number,) = session.command("constant", values=torch.zeros(like.shape, dtype=torch.int64))
            gradient = _wrapped(session, number, like)
        filled.append(gradient)
    return filled


_known: WeakKeyDictionary[NetworkedSession, Lanes] = WeakKeyDictionary()


def lanes_of(session: Any, count: int | None = None) -> Lanes | None:
    """The lanes that begin with a session, made at the first call; None if there is but one.

    Args:
        session: in which something is shared.
        count: how many lanes to use; as many as all members have if not given.

    Raises:
        UnsupportedOperationError: a member has fewer processes, or the session was joined with another number of lanes.
        NetworkError: a process cannot be reached.
    """
    if not isinstance(session, NetworkedSession):
        return None
    members: list[Any] = [*session.parties, session.provider]
    if count is None:
        count = min(member.lanes for member in members)
    if count < 2:
        return None
    known = _known.get(session)
    if known is None or known.ended:
        session.sync()
        known = _known[session] = Lanes(session, count)
    if known.count != count:
        raise UnsupportedOperationError(f"{session!r} is joined with {known.count} lanes already, not {count}.")
    return known


class DataParallel(nn.Module):
    """A model that every party's processes run together, each on a part of the batch.

    Used as ``torch.nn.DataParallel``: inputs are split along dimension 0, outputs joined along it, and gradients end up
    in the parameters of ``module``. Results are those of one process, up to rounding. Where the parties have but one
    process, or all are virtual workers, ``module`` runs as it is; likewise for batches with fewer rows than lanes.

    Buffers that training changes, such as running means, follow lane 0's part of the batch, as in PyTorch.

    Args:
        module: a shared model; it may be shared after this, too.
        lanes: how many processes of each member to use; as many as all members have if not given.
    """

    def __init__(self, module: nn.Module, lanes: int | None = None) -> None:
        super().__init__()
        self.module = module
        self._count = lanes
        self._copied: tuple[Any, list[list[Handle]]] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module on all lanes."""
        state = self._shared_state()
        session = next((x.session for x in state.values()), None)
        lanes = lanes_of(session, self._count)
        rows = _rows((args, kwargs))
        if lanes is None or rows is None or rows < lanes.count:
            return self.module(*args, **kwargs)
        models = self._spread(lanes, state)
        cuts = [rows * lane // lanes.count for lane in range(lanes.count + 1)]
        parts = [
            _part((args, kwargs), rows, start, end, partial(lanes.move, source=0, target=lane))
            for lane, (start, end) in enumerate(pairwise(cuts))
        ]
        outputs = [
            functional_call(self.module, model, part[0], part[1]) for model, part in zip(models, parts, strict=True)
        ]
        return _joined(outputs, lanes)

    def _shared_state(self) -> dict[str, SharedTensor]:
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {name: x for name, x in tensors.items() if isinstance(x, SharedTensor)}

    def _spread(self, lanes: Lanes, state: dict[str, SharedTensor]) -> list[dict[str, Tensor]]:
        """The model's tensors in each lane; copies are made anew only if something has changed."""
        key = [weakref.ref(lanes), [(x.handle.number, x._version) for x in state.values()]]
        if self._copied is None or self._copied[0] != key:
            self._copied = key, lanes.broadcast(list(state.values()))
        names = list(state)
        copies = [dict(zip(names, row, strict=True)) for row in self._copied[1]]
        trained = [name for name in names if state[name].requires_grad]
        flat = apply(_Spread, lanes, [[row[name] for name in trained] for row in copies], *map(state.get, trained))
        models: list[dict[str, Tensor]] = [
            dict(zip(trained, flat[lane * len(trained) :], strict=False)) for lane in range(lanes.count)
        ]
        for model, row in zip(models[1:], copies, strict=True):
            model |= {name: SharedTensor(row[name], state[name].shadow) for name in names if name not in trained}
        return models


def _rows(value: Any) -> int | None:
    """Rows of the first shared tensor among inputs."""
    if isinstance(value, SharedTensor):
        return value.shape[0] if value.dim() else None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((rows for rows in map(_rows, parts) if rows is not None), None)


def _part(value: Any, rows: int, start: int, end: int, move: Callable[[SharedTensor], Any]) -> Any:
    """Inputs with their rows from start to end, brought to a lane."""
    if isinstance(value, Tensor):
        part = value[start:end] if value.dim() and value.shape[0] == rows else value
        return move(part) if isinstance(part, SharedTensor) else part
    if isinstance(value, dict):
        return {key: _part(entry, rows, start, end, move) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_part(entry, rows, start, end, move) for entry in value)
    return value


def _joined(outputs: Sequence[Any], lanes: Lanes) -> Any:
    """Outputs of all lanes in lane 0, one part after the other."""
    first = outputs[0]
    if isinstance(first, Tensor):
        found = [lanes.move(x, lane, 0) if isinstance(x, SharedTensor) else x for lane, x in enumerate(outputs)]
        return torch.cat(found) if first.dim() else torch.stack(found)
    if isinstance(first, dict):
        return {key: _joined([output[key] for output in outputs], lanes) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_joined(entries, lanes) for entries in zip(*outputs, strict=True))
    return first
