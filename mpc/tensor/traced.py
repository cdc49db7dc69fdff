"""``st.traced``: a program on shared tensors whose Python runs a few times, and whose commands are then given again.

Autograd, optimizers and the dispatch of PyTorch decide the same in every training step. Once two runs in a row have
given the same commands, later ones give them straight from a tape (``mpc.tape``), which is as secure as the program:
every command draws fresh randomness, and members do what they always do.
"""

from __future__ import annotations

import functools
import gc
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from sharetorch.mpc.fixedpoint import Encoding
from sharetorch.mpc.session import Session
from sharetorch.mpc.tape import OUTSIDE, RESULT, Ref, Tape, recorders, same
from sharetorch.mpc.tensor import nested
from sharetorch.mpc.tensor.arithmetic import Debug
from sharetorch.mpc.tensor.pending import PendingHandle
from sharetorch.mpc.tensor.shared import Handle, SharedTensor

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS = 4
"""Runs after which a program that always takes another course is left alone."""

COURSES = 64
"""Kinds of arguments whose commands are kept; a further one takes the place of the oldest."""


class NotTracedWarning(UserWarning):
    """A traced program cannot be repeated from its commands, so it runs as if it were not traced."""


class Traced(Generic[P, R]):
    """A program whose commands are noted and given again. Made by ``st.traced``.

    Attributes:
        repeats: how many calls were served from noted commands.
        reason: why calls with the latest kind of arguments are not; empty if they are, or may be soon.
    """

    def __init__(self, program: Callable[P, R]) -> None:
        functools.update_wrapper(self, program)
        self._program = program
        self._courses: dict[Any, _Course] = {}
        self.repeats = 0
        self.reason = ""

    def __repr__(self) -> str:
        return f"<Traced {getattr(self._program, '__qualname__', self._program)}: {self.repeats} repeats>"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        bound: Any = self.__call__
        return self if instance is None else functools.partial(bound, instance)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the program, or give the commands that it would give.

        Raises:
            ShareTorchError: what an operation raises.
        """
        found = _Arguments(args, kwargs)
        if found.session is None:
            return self._program(*args, **kwargs)
        for x in found.tensors:
            x.handle.number  # noqa: B018 (gives a command that waits)
        key = found.key()
        course = self._courses.get(key)
        if course is None:
            if len(self._courses) == COURSES:
                self._courses.pop(next(iter(self._courses)))
            course = self._courses[key] = _Course(found.others)
        if course.repeats(found):
            repeated: R = course.repeat(found)
            self.repeats += 1
            self.reason = ""
            return repeated
        if course.given_up:
            self.reason = course.reason
            return self._program(*args, **kwargs)
        result: R = course.record(found, lambda: self._program(*args, **kwargs))
        self._tell(course)
        return result

    def _tell(self, course: _Course) -> None:
        """Say why a course is not repeated, and warn if it never will be."""
        self.reason = course.reason
        if course.given_up:
            warnings.warn(f"{self!r} runs as if it were not traced: {course.reason}.", NotTracedWarning, stacklevel=3)


def traced(program: Callable[P, R]) -> Traced[P, R]:
    """Let a program on shared tensors be repeated without its Python, as soon as two runs gave the same commands.

    Every call does what a call of the program does, to shared tensors. The first calls run it; once two in a row gave
    the same commands, calls with arguments of the same layout give these commands again, without running any Python of
    the program. Where it takes another course (other layouts, another learning rate, ``eval()``, a parameter that is
    frozen), it runs again, and is noted anew.

    Args:
        program: takes shared tensors, and whatever else stays the same; gives shared tensors without gradients
            (``loss.detach()``), None, or tuples, lists and dictionaries of these. What it changes must be shared
            tensors or be decided by their commands: a counter or a list of losses inside grows no more, and
            gradients that it leaves behind are gone.

    Returns:
        A ``Traced``, called like the program.

    Raises:
        TypeError: it cannot be called.

    Cost: rounds and bytes of the commands; nothing else.
    Leaks: nothing beyond the program.
    """
    if not callable(program):
        raise TypeError(f"A {type(program).__name__} cannot be traced; give a function of shared tensors.")
    return Traced(program)


class _Arguments:
    """The arguments of a call.

    Attributes:
        tensors: the shared tensors among them, in order.
        others: everything else.
        session: that of the first tensor; None if there is no tensor.
    """

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.tensors: list[SharedTensor] = []
        self.others: list[Any] = []
        self._shape = self._walk((args, kwargs))
        self.session: Session | None = self.tensors[0].session if self.tensors else None

    def _walk(self, value: Any) -> Any:
        if isinstance(value, SharedTensor):
            self.tensors.append(value)
            return "shared"
        if isinstance(value, (tuple, list)):
            return (type(value), *map(self._walk, value))
        if isinstance(value, Mapping):
            return (type(value), *((key, self._walk(part)) for key, part in value.items()))
        self.others.append(value)
        return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)

    def key(self) -> Any:
        """What decides whether a call can be repeated by another one's commands."""
        places = [x.handle.number for x in self.tensors]
        memory = [x.shadow.untyped_storage()._cdata for x in self.tensors]
        tensors = tuple(
            (tuple(x.shape), x.stride(), x.storage_offset(), x.dtype, x.encoding, x.bits, x.requires_grad,
             id(x.session), places.index(number), memory.index(place))
            for x, number, place in zip(self.tensors, places, memory, strict=True)
        )  # fmt: skip
        assert self.session is not None
        return self._shape, tensors, torch.is_grad_enabled(), self.session.debug, Debug.enabled

    @property
    def numbers(self) -> list[int]:
        """Numbers of the tensors' objects."""
        return [x.handle.number for x in self.tensors]


class _Course:
    """What a program does with arguments of one kind.

    Args:
        others: arguments that are no tensors, to be held: their identity is part of the kind.

    Attributes:
        reason: why it is not repeated so far.
        given_up: whether it is not noted any more.
    """

    def __init__(self, others: Sequence[Any]) -> None:
        self._others = others
        self._tape: Tape | None = None
        self._template: Any = None
        self._around: _Around | None = None
        self._leaves: list[weakref.ref[SharedTensor]] = []
        self._written = _Written([], [])
        self._runs = 0
        self.reason = ""
        self.given_up = any(isinstance(other, Tensor) for other in others)
        if self.given_up:
            self.reason = "a plain tensor is among its arguments, and its values may decide the commands"

    def repeats(self, arguments: _Arguments) -> bool:
        """Whether the commands can be given again."""
        if self._around is None:
            return False
        assert self._tape is not None
        if self._around.holds() and self._tape.session.holds(self._tape.outside):
            return True
        self._around, self._tape, self._runs = None, None, 0
        return False

    def repeat(self, arguments: _Arguments) -> Any:
        """Give the commands again. Returns what the program would return."""
        assert self._tape is not None and arguments.session is not None
        with torch._C.DisableTorchFunctionSubclass():
            for find in self._leaves:
                leaf = find()
                if leaf is not None:
                    leaf.grad = None
        self._written.note(arguments)
        numbers = arguments.session.repeat(self._tape, arguments.numbers)
        handles: dict[int, Handle] = {}

        def filled(part: Any) -> Any:
            return part.filled(arguments, numbers, handles) if isinstance(part, _Part) else part

        return nested.mapped(self._template, filled)

    def record(self, arguments: _Arguments, program: Callable[[], Any]) -> Any:
        """Run the program, note its commands, and compare them with those of the run before."""
        assert arguments.session is not None
        before, self._tape = self._tape, None
        if before is not None:
            recorders.watched.discard(before)
        versions = [(weakref.ref(x), x._version) for x in _alive(arguments.session)]
        with arguments.session.recording(arguments.numbers) as tape:
            result = program()
            kept = [part.handle.number for part in nested.tensors(result)]
        template = nested.mapped(result, lambda part: _described(part, tape))
        tape.end(kept)
        self._runs += 1
        self.reason = tape.reason or (before.reason if before is not None else "")
        if before is not None:
            self.reason = self.reason or before.misfit(tape)
            if not self.reason:
                self._tape, self._template = tape, template
                self._around = _Around(arguments.session)
                self._written = _Written.of(versions, arguments)
                self._leaves = _let_go(tape)
                return result
        if self._runs >= ATTEMPTS or tape.reason:
            self.given_up = True
            return result
        self._tape = tape
        recorders.watched.add(tape)
        return result


@dataclass(frozen=True)
class _Part:
    """A tensor that a program returned.

    Attributes:
        ref: what it is.
        session: whose.
        encoding: of its integers.
        shape: of the tensor.
        strides: of the tensor.
        dtype: of its values.
        bits: whether they are known to be bits.
        itself: the tensor, if the program was given it or found it.
    """

    ref: Ref
    session: Session
    encoding: Encoding
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    bits: bool
    itself: SharedTensor | None

    @classmethod
    def of(cls, x: SharedTensor, tape: Tape) -> _Part:
        """Describe a result."""
        ref = tape.ref(x.handle.number)
        if x.requires_grad and ref.kind == RESULT:
            tape.refuse("it returns a tensor with gradients: return x.detach()")
        if type(x) is not SharedTensor and ref.kind == RESULT:
            tape.refuse(f"it returns a {type(x).__name__}: return a plain shared tensor")
        itself = None if ref.kind == RESULT else x
        return cls(ref, x.session, x.encoding, x.shape, x.stride(), x.dtype, x.bits, itself)

    def filled(self, arguments: _Arguments, numbers: Sequence[int], handles: dict[int, Handle]) -> SharedTensor:
        """The tensor that stands here after another run."""
        if self.ref.kind != RESULT:
            own = self.itself if self.ref.kind == OUTSIDE else arguments.tensors[self.ref.number]
            assert own is not None
            return own
        number = numbers[self.ref.number]
        handle = handles.get(number)
        if handle is None:
            handle = handles[number] = Handle(self.session, number, self.encoding)
        made = SharedTensor(handle, torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta"))
        if self.bits:
            made.bits = True
        return made


def _described(value: Any, tape: Tape) -> Any:
    """What stands for a part of a result until another run makes it."""
    if isinstance(value, SharedTensor):
        return _Part.of(value, tape)
    if value is not None:
        tape.refuse(f"it returns a {type(value).__name__}, which only its Python can make: return shared tensors")
    return value


class _Around:
    """What decides the commands beside the arguments: options of optimizers, modes of modules, frozen parameters."""

    def __init__(self, session: Session) -> None:
        every = gc.get_objects()
        optimizers = [x for x in every if issubclass(type(x), torch.optim.Optimizer) and _steps(x, session)]
        modules = [x for x in every if issubclass(type(x), torch.nn.Module)]
        leaves = [x for x in _alive(session) if x.is_leaf]
        self._optimizers = [(weakref.ref(x), _options(x)) for x in optimizers]
        self._modules = [(weakref.ref(x), x.training) for x in modules]
        self._leaves = [(weakref.ref(x), x.requires_grad) for x in leaves if isinstance(x, torch.nn.Parameter)]

    def holds(self) -> bool:
        """Whether all is as it was; what is gone decides nothing any more."""
        with torch._C.DisableTorchFunctionSubclass():
            return (
                all(x.training is mode for find, mode in self._modules if (x := find()) is not None)
                and all(x.requires_grad is needed for find, needed in self._leaves if (x := find()) is not None)
                and all(same(_options(x), options) for find, options in self._optimizers if (x := find()) is not None)
            )


def _steps(optimizer: Any, session: Session) -> bool:
    """Whether an optimizer has parameters of a session."""
    groups = getattr(optimizer, "param_groups", ())
    return any(isinstance(x, SharedTensor) and x.session is session for group in groups for x in group["params"])


def _options(optimizer: Any) -> list[dict[str, Any]]:
    """Everything an optimizer was told but its parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


class _Written(NamedTuple):
    """What a program writes to, so that autograd, and whoever keeps copies, hears of it.

    Attributes:
        places: of arguments.
        others: other tensors.
    """

    places: list[int]
    others: list[weakref.ref[SharedTensor]]

    @classmethod
    def of(cls, versions: Sequence[tuple[weakref.ref[SharedTensor], int]], arguments: _Arguments) -> _Written:
        """What has another version than before."""
        places = {id(x): place for place, x in enumerate(arguments.tensors)}
        alive = [(x, version) for find, version in versions if (x := find()) is not None]
        changed = [x for x, version in alive if x._version != version]
        others = [weakref.ref(x) for x in changed if id(x) not in places]
        return cls([places[id(x)] for x in changed if id(x) in places], others)

    def note(self, arguments: _Arguments) -> None:
        """Raise the versions of what is written to."""
        others = [x for find in self.others if (x := find()) is not None]
        torch.autograd.graph.increment_version([*others, *(arguments.tensors[place] for place in self.places)])


def _alive(session: Session) -> list[SharedTensor]:
    """All shared tensors of a session."""
    found = (x for x in gc.get_objects() if issubclass(type(x), SharedTensor) and hasattr(x, "handle"))
    return [x for x in found if x.session is session]


def _let_go(tape: Tape) -> list[weakref.ref[SharedTensor]]:
    """Forget what the last run that was noted has left behind, for it would no longer follow.

    Returns:
        The tensors whose gradients are gone.
    """
    made, leaves = set(tape.left), []
    for x in _alive(tape.session):
        grad = x.grad if x.is_leaf else None
        if isinstance(grad, SharedTensor) and _made_by(grad.handle, made):
            x.grad = None
            leaves.append(weakref.ref(x))
    for number in made:
        tape.session.free(number)
    return leaves


def _made_by(handle: Handle, numbers: set[int]) -> bool:
    waits = isinstance(handle, PendingHandle) and handle.pending is not None
    return waits or handle.number in numbers
