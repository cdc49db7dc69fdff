"""Where in the program an operation is asked for: the module, the pass, the line.

Inside a profile, hooks of PyTorch tell when any module or optimizer begins and ends, in each thread. An operation
belongs to the innermost of them. In the backward pass it belongs to the module in whose forward pass the node of the
autograd graph was made: nodes are numbered one after the other in each thread, so a module's are an interval.
"""

from __future__ import annotations

import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

_PACKAGES = ("sharetorch.", "torch.")
_KEPT = 1 << 16
"""Intervals of nodes kept in a thread; a backward pass needs those of its own forward pass."""


class Place(NamedTuple):
    """A module or an optimizer.

    Attributes:
        parts: the class of the outermost module and the names below it; empty outside of all modules.
        kind: the class of a module that is not the outermost.
    """

    parts: tuple[str, ...] = ()
    kind: str = ""

    def name(self, depth: int | None = None) -> str:
        """Such as "Net.layer1.0 (Conv2d)"; with a depth its first names, such as "Net.layer1"."""
        if not self.parts:
            return "(no module)"
        kind = f" ({self.kind})" if self.kind and depth is None else ""
        return ".".join(self.parts[:depth]) + kind


NOWHERE = Place()


class Origin(NamedTuple):
    """Where and when an operation was asked for.

    Attributes:
        place: in which module.
        backward: whether in the backward pass.
        line: file, line and function of the user's program.
        time: on the clock of ``time.perf_counter``.
    """

    place: Place
    backward: bool
    line: str
    time: float


class Call(NamedTuple):
    """One call of a module, or one step of an optimizer, from its beginning to its end."""

    thread: int
    place: Place
    begin: float
    end: float


@dataclass
class _Inside:
    """A module or optimizer at work; of an optimizer, the frame that runs its step."""

    owner: object
    place: Place
    begin: float
    first_node: int
    frame: FrameType | None = None


@dataclass
class _Thread(threading.local):
    """What one thread is inside of, and the nodes its modules have made: intervals in the order of their ends."""

    inside: list[_Inside] = field(default_factory=list)
    names: dict[int, Place] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    made: list[tuple[int, Place]] = field(default_factory=list)


class Places:
    """Follows modules and optimizers while it is open.

    Args:
        limit: calls kept for the trace.

    Attributes:
        calls: finished calls of modules and steps of optimizers, the first ``limit``.
        dropped: how many more there were.
    """

    def __init__(self, limit: int) -> None:
        self.calls: list[Call] = []
        self.dropped = 0
        self._limit = limit
        self._thread = _Thread()
        self._roots: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._owners: dict[int, Place] = {}
        self._hooks: list[Any] = []

    def open(self) -> None:
        """Begin to follow."""
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
            register_optimizer_step_pre_hook(self._enter_step),
            register_optimizer_step_post_hook(self._leave_step),
        ]

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._thread = _Thread()
        self._owners.clear()

    def here(self) -> Origin:
        """Where this thread is."""
        frame = sys._getframe(1)
        if self._hooks:
            self._drop_broken_steps(frame)
            place, backward = self._place()
        else:
            place, backward = NOWHERE, False
        return Origin(place, backward, _user_line(frame), time.perf_counter())

    def _place(self) -> tuple[Place, bool]:
        backward = _in_backward()
        if self._thread.inside:
            return self._thread.inside[-1].place, backward
        return (self._of_node(), True) if backward else (NOWHERE, False)

    def _of_node(self) -> Place:
        """The module whose forward pass made the node that is being differentiated."""
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return NOWHERE
        variable = getattr(node, "variable", None)
        if variable is not None:
            return self._owners.get(id(variable), NOWHERE)
        number, made = node._sequence_nr(), self._thread.made
        for begin, place in made[bisect_right(self._thread.ends, number) :]:
            if begin <= number:
                return place
        return NOWHERE

    # Modules

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        thread = self._thread
        outermost = not any(isinstance(one.owner, nn.Module) for one in thread.inside)
        again = id(module) in thread.names and _in_backward()  # checkpoints run modules again in the backward pass
        if outermost and not again:
            self._name_all(module)
        place = thread.names.get(id(module))
        if place is None:
            above = thread.inside[-1].place.parts if thread.inside else ()
            place = Place((*above, type(module).__name__))
        thread.inside.append(_Inside(module, place, time.perf_counter(), _next_node()))

    def _name_all(self, root: nn.Module) -> None:
        """Names of all modules below one that is called from outside of all modules."""
        top = self._roots.get(root) or self._new_top(type(root).__name__)
        self._roots[root] = top
        names: dict[int, Place] = {}
        for path, module in root.named_modules():
            parts = tuple(path.split(".")) if path else ()
            place = names[id(module)] = Place((top, *parts), type(module).__name__ if parts else "")
            for parameter in module._parameters.values():
                if parameter is not None:
                    self._owners.setdefault(id(parameter), place)
        self._thread.names = names

    def _new_top(self, name: str) -> str:
        taken = set(self._roots.values())
        numbered = (name if n == 1 else f"{name}#{n}" for n in range(1, len(taken) + 2))
        return next(one for one in numbered if one not in taken)

    def _leave_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        inside = self._thread.inside
        while any(one.owner is module for one in inside):
            one = inside.pop()
            self._keep(one)
            if one.owner is module:
                self._keep_nodes(one)
                return

    def _keep_nodes(self, one: _Inside) -> None:
        thread, end = self._thread, _next_node()
        if end == one.first_node:
            return
        if len(thread.ends) >= _KEPT:
            del thread.ends[: _KEPT // 2], thread.made[: _KEPT // 2]
        thread.ends.append(end)
        thread.made.append((one.first_node, one.place))

    def _keep(self, one: _Inside) -> None:
        if len(self.calls) >= self._limit:
            self.dropped += 1
            return
        self.calls.append(Call(threading.get_ident(), one.place, one.begin, time.perf_counter()))

    # Optimizers

    def _enter_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        place = Place((f"{type(optimizer).__name__}.step",))
        frame = sys._getframe(1)
        self._thread.inside.append(_Inside(optimizer, place, time.perf_counter(), 0, frame))

    def _leave_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        inside = self._thread.inside
        if inside and inside[-1].owner is optimizer:
            self._keep(inside.pop())

    def _drop_broken_steps(self, frame: FrameType) -> None:
        """Forget steps that ended by an exception: PyTorch calls no hook then, but their frame is gone."""
        inside = self._thread.inside
        if any(one.frame is not None for one in inside):
            alive = set(_frames(frame))
            inside[:] = [one for one in inside if one.frame is None or one.frame in alive]


def _in_backward() -> bool:
    """Whether this thread is inside of autograd's engine."""
    return bool(torch._C._current_graph_task_id() != -1)


def _next_node() -> int:
    """The number that the next node of this thread gets."""
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    return number


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _user_line(frame: FrameType) -> str:
    """The innermost line outside of torch and of this package; its text may hold data and is left out."""
    for one in _frames(frame):
        code = one.f_code
        if _is_users(one.f_globals.get("__name__", ""), code.co_filename):
            where = f"{Path(code.co_filename).name}:{one.f_lineno}"
            return where if code.co_name == "<module>" else f"{where} ({code.co_name})"
    return "(no line)"


@lru_cache(maxsize=4096)
def _is_users(module: str, file: str) -> bool:
    return not f"{module}.".startswith(_PACKAGES) and not file.startswith("<frozen")
