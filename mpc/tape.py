"""The commands of a program, noted while it runs, to be given again for other arguments without running it.

Numbers of objects change from run to run. A tape holds instead what they were to the program: an argument, the result
of an earlier command, or an object that was there before and still is.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ARGUMENT, RESULT, OUTSIDE = range(3)
"""What an object was to the program."""


class Ref(NamedTuple):
    """An object as the program found it.

    Attributes:
        kind: ARGUMENT, RESULT or OUTSIDE.
        number: place among the arguments, or among the results of all commands, or the object's own number.
    """

    kind: int
    number: int


class Entry(NamedTuple):
    """One command.

    Attributes:
        name: of the operation.
        inputs: the operands.
        outputs: how many results it has.
        public: its public arguments.
        over: results that no later command asks for, by their places.
    """

    name: str
    inputs: tuple[Ref, ...]
    outputs: int
    public: Mapping[str, Any]
    over: tuple[int, ...] = ()


class Tape:
    """What a program commanded in one run.

    Args:
        session: that of the arguments.
        arguments: their numbers.
        since: objects with this number or a greater one were made after the run began.

    Attributes:
        session: that of the arguments.
        entries: the commands, in order.
        reason: why they cannot be given again; empty if they can.
    """

    def __init__(self, session: Any, arguments: Sequence[int], since: int) -> None:
        self.session = session
        self.entries: list[Entry] = []
        self.reason = ""
        self._since = since
        self._refs = {number: Ref(ARGUMENT, place) for place, number in enumerate(arguments)}
        self._made: list[int] = []
        self._kept: set[int] | None = None

    def __repr__(self) -> str:
        return f"Tape({len(self.entries)} commands{', ' + self.reason if self.reason else ''})"

    def refuse(self, reason: str) -> None:
        """Say why the commands cannot be given again; the first reason counts."""
        self.reason = self.reason or reason

    def note(
        self, session: Any, name: str, inputs: Sequence[int], results: Sequence[int], public: Mapping[str, Any]
    ) -> None:
        """Take a command down; once the run is over, look whether it uses what the program did not return."""
        if self._kept is not None:
            if any(self._refs.get(number, _NONE).kind == RESULT and number not in self._kept for number in inputs):
                self.refuse("what it made was used outside, and it did not return it: return it, or trace that use too")
            return
        if session is not self.session:
            self.refuse("it commands more than one session")
            return
        found = tuple(map(self.ref, inputs))
        for number in results:
            self._refs[number] = Ref(RESULT, len(self._made))
            self._made.append(number)
        self.entries.append(Entry(name, found, len(results), as_it_was(public)))

    def ref(self, number: int) -> Ref:
        """What an object is to the program."""
        found = self._refs.get(number)
        if found is None:
            if number >= self._since:
                self.refuse("it shares data inside: share it outside, and give it as an argument")
            found = self._refs[number] = Ref(OUTSIDE, number)
        return found

    def end(self, kept: Sequence[int]) -> None:
        """The run is over.

        Args:
            kept: numbers of what the program returned.
        """
        self._kept = set(kept)
        last = {ref.number: place for place, entry in enumerate(self.entries) for ref in entry.inputs
                if ref.kind == RESULT}  # fmt: skip
        over: list[list[int]] = [[] for _ in self.entries]
        made = 0
        for place, entry in enumerate(self.entries):
            for number in range(made, made + entry.outputs):
                if self._made[number] not in self._kept:
                    over[last.get(number, place)].append(number)
            made += entry.outputs
        self.entries = [entry._replace(over=tuple(done)) for entry, done in zip(self.entries, over, strict=True)]

    @property
    def left(self) -> list[int]:
        """Numbers of what the program made and did not return."""
        return [number for number in self._made if number not in (self._kept or ())]

    @property
    def outside(self) -> list[int]:
        """Numbers of the objects that were there before."""
        return [number for number, ref in self._refs.items() if ref.kind == OUTSIDE]

    def misfit(self, other: Tape) -> str:
        """How another run took a different course; empty if it did not."""
        if len(self.entries) != len(other.entries):
            return f"one run gave {len(self.entries)} commands and the next one {len(other.entries)}"
        for place, (mine, theirs) in enumerate(zip(self.entries, other.entries, strict=True)):
            if (mine.name, mine.outputs) != (theirs.name, theirs.outputs):
                return f"command {place} was {mine.name} in one run and {theirs.name} in the next one"
            if mine.inputs != theirs.inputs:
                return f"command {place}, {mine.name}, had other operands in the next run"
            if not same(mine.public, theirs.public):
                return f"command {place}, {mine.name}, had other public arguments in the next run"
            if mine.over != theirs.over:
                return f"the results of command {place}, {mine.name}, were returned in one run only"
        return ""


_NONE = Ref(OUTSIDE, -1)


def as_it_was(value: Any) -> Any:
    """A public argument that does not change with tensors and arrays that the program may still write to."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(map(as_it_was, value))
    if isinstance(value, Mapping):
        return {key: as_it_was(part) for key, part in value.items()}
    return value


def same(x: Any, y: Any) -> bool:
    """Whether two public arguments are equal: tensors and arrays in kind and values, objects in their attributes."""
    if x is y:
        return True
    if type(x) is not type(y):
        return False
    if isinstance(x, Tensor):
        return x.dtype == y.dtype and torch.equal(x, y)
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and np.array_equal(x, y)
    if isinstance(x, Mapping):
        return x.keys() == y.keys() and all(same(part, y[key]) for key, part in x.items())
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(same, x, y))
    compares = vars(type(x)).get("__eq__") is not None or not hasattr(x, "__dict__")
    return bool(x == y) if compares else same(vars(x), vars(y))


class Recorders(threading.local):
    """Who hears of the commands that a thread gives.

    Attributes:
        tapes: of programs that run, the innermost last.
        watched: tapes of runs that are over, as long as somebody has them.
    """

    def __init__(self) -> None:
        self.tapes: tuple[Tape, ...] = ()
        self.watched: weakref.WeakSet[Tape] = weakref.WeakSet()

    @contextmanager
    def noting(self, tape: Tape) -> Iterator[None]:
        """Note the commands that this thread gives in the block."""
        self.tapes = (*self.tapes, tape)
        try:
            yield
        finally:
            self.tapes = tuple(made for made in self.tapes if made is not tape)

    def note(
        self, session: Any, name: str, inputs: Sequence[int], results: Sequence[int], public: Mapping[str, Any]
    ) -> None:
        """Tell all of a command."""
        for tape in (*self.tapes, *self.watched):
            tape.note(session, name, inputs, results, public)

    def refuse(self, reason: str) -> None:
        """Tell the programs that run that they cannot be repeated."""
        for tape in self.tapes:
            tape.refuse(reason)


recorders = Recorders()
