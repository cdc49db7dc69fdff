"""Correlated randomness made ahead: the provider's part of a program runs first, and what it sends is kept.

The provider never hears from the parties, so a command asks nothing of it but what is public: its name, its public
arguments, and layout and masks of its operands. ``Ahead`` runs the provider's coroutines on copies of what it holds,
under secrets of a block of their own, and keeps what they send (``Step``). Later a command of the same description
takes the step: the parties get the kept corrections and draw from the block's streams under the step's number, and the
provider's objects become what they would have become. A step is given out once, and numbers only grow, so that nothing
kept can hide a second secret.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sharetorch.mpc import operations
from sharetorch.mpc.channel import Message, Payload, size_of
from sharetorch.mpc.errors import CorrelationReusedError, PreparationError, ProtocolError, UnsupportedOperationError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.bilinear import BilinearMap
from sharetorch.mpc.randomness import PairSecret
from sharetorch.mpc.ring import Elements
from sharetorch.mpc.share import ArithmeticShare, MaskedOperand, Root

Secrets = list[dict[int, PairSecret]]
"""What each member draws from in a block, by rank and peer; the provider's last."""

OPENING = frozenset({"refresh"})
"""Commands that come with looking at values, which needs nothing of the provider."""

Mask = Any
"""A mask: its place among those made in the block, the mask itself if it is older, or None."""


class Operand(NamedTuple):
    """What the provider's work depends on of an operand.

    Attributes:
        layout: shape, strides, offset, and elements of the storage.
        root: place of the first operand in the same storage.
        share: place of the first operand that is the same object.
        whole: mask under which the whole storage is open.
        own: mask under which this view is open.
    """

    layout: tuple[Any, ...]
    root: int
    share: int
    whole: Mask
    own: Mask


class Result(NamedTuple):
    """How a result is made, where no coroutine makes it.

    Attributes:
        operand: place of the operand that it is, or -1.
        base: place of an operand in whose storage it lies, or -1.
        first: place of the first result in the same storage.
        data: an empty tensor of its layout.
        storage: likewise, of its storage.
        whole: as for ``Operand``.
        own: likewise.
    """

    operand: int
    base: int
    first: int
    data: Elements
    storage: Elements
    whole: Mask
    own: Mask


class Step:
    """One command's share of what was made ahead.

    Attributes:
        number: of the operation.
        name: of the operation.
        messages: what the provider sent, in order.
        size: bytes of them.
    """

    __slots__ = ("_after", "_block", "_before", "_outputs", "_public", "_results", "_written", "messages", "name",
                 "number", "size")  # fmt: skip

    def __init__(
        self, block: Block, number: int, name: str, outputs: int, public: Mapping[str, Any], before: list[Operand]
    ) -> None:
        self.number = number
        self.name = name
        self.messages: list[Message] = []
        self.size = 0
        self._block = block
        self._outputs = outputs
        self._public = _normal(public)
        self._before = before
        self._after: list[Operand] = []
        self._written: list[bool] = []
        self._results: list[Result] = []

    def __repr__(self) -> str:
        return f"Step({self.number}, {self.name}, {self.size} bytes)"

    @property
    def secrets(self) -> Secrets:
        """What members draw from."""
        return self._block.secrets

    def misfit(self, name: str, held: Sequence[ArithmeticShare], outputs: int, public: Mapping[str, Any]) -> str:
        """How a command differs from the one this was made for; empty if it does not.

        Args:
            name: of the operation.
            held: the operands as the provider holds them.
            outputs: number of results.
            public: public arguments.
        """
        if name != self.name or outputs != self._outputs:
            return f"{name} came where {self.name} was prepared"
        if _normal(public) != self._public:
            return f"{name} came with other public arguments"
        given = describe(held)
        if [one[:3] for one in given] != [one[:3] for one in self._before]:
            return f"{name} came with operands of other shapes or strides"
        for one, due in zip(given, self._before, strict=True):
            if one.whole is not self._block.mask(due.whole) or one.own is not self._block.mask(due.own):
                return f"{name} came with an operand that was used before, or was not, where the other was prepared"
        return ""

    def note(self, held: Sequence[ArithmeticShare], versions: list[int], results: Sequence[ArithmeticShare]) -> None:
        """Keep what the provider's coroutine did to its operands and what came of it."""
        block, places = self._block, [id(share) for share in held]
        self._after = [one._replace(whole=block.ref(one.whole), own=block.ref(one.own)) for one in describe(held)]
        self._written = [share.root.version != version for share, version in zip(held, versions, strict=True)]
        roots, made = [id(share.root) for share in held], [id(share.root) for share in results]
        for share in results:
            whole, own = _masks(share)
            self._results.append(
                Result(
                    places.index(id(share)) if id(share) in places else -1,
                    roots.index(id(share.root)) if id(share.root) in roots else -1,
                    made.index(id(share.root)), share.data, share.root.data, block.ref(whole), block.ref(own),
                )  # fmt: skip
            )

    def arrive(self, held: Sequence[ArithmeticShare]) -> tuple[ArithmeticShare, ...]:
        """Let the provider's operands become what they would have become, and give its results."""
        for place, (share, after, written) in enumerate(zip(held, self._after, self._written, strict=True)):
            if after.root == place and written:
                share.root.touch()
        for share, after in zip(held, self._after, strict=True):
            self._open(share, after.whole, after.own)
        made: list[ArithmeticShare] = []
        for place, result in enumerate(self._results):
            if result.operand >= 0:
                made.append(held[result.operand])
                continue
            if result.base >= 0:
                root = held[result.base].root
            else:
                root = made[result.first].root if result.first < place else Root(result.storage)
            made.append(ArithmeticShare(result.data, root))
            self._open(made[-1], result.whole, result.own)
        return tuple(made)

    def _open(self, share: ArithmeticShare, whole: Mask, own: Mask) -> None:
        """Give a share's storage and a share these masks."""
        current, version = _masks(share), share.root.version
        due = self._block.mask(whole), self._block.mask(own)
        if current[0] is not due[0]:
            share.root.masked = None if due[0] is None else MaskedOperand(version, None, due[0])
        if current[1] is not due[1]:
            share.masked = None if due[1] is None else MaskedOperand(version, None, due[1])


class Block:
    """What is made ahead in one go: secrets of its own, masks, and runs of a program.

    Attributes:
        secrets: what members draw from.
        masks: those made in the block, which later steps refer to by their places.
        size: bytes of messages and masks.
    """

    def __init__(self, secrets: Secrets) -> None:
        self.secrets = secrets
        self.masks: list[Elements] = []
        self.size = 0
        self._runs: list[list[Step]] = []
        self._begun = 0
        self._places: dict[int, int] = {}
        self._made: list[int] = []
        self._last: list[int] = []

    def __repr__(self) -> str:
        return f"Block({self.left} runs left)"

    @property
    def left(self) -> int:
        """How many runs have not begun."""
        return len(self._runs) - self._begun

    @property
    def dealt(self) -> int:
        """Bytes of messages for the runs that have not begun."""
        return sum(step.size for steps in self._runs[self._begun :] for step in steps)

    def next_run(self) -> None:
        """Let the steps to come belong to another run."""
        self._runs.append([])

    def add(self, step: Step) -> None:
        """Keep a step of the run that is being made."""
        self._runs[-1].append(step)
        self.size += step.size

    def finish(self) -> None:
        """Everything is made."""
        self._places.clear()

    def begin(self) -> Run:
        """The next run; nothing gives it out again.

        Raises:
            CorrelationReusedError: there is none left.
        """
        if not self.left:
            raise CorrelationReusedError(
                "Everything that was prepared here has been used or saved. A second use would reveal differences of "
                "secrets; prepare anew, or load what was saved."
            )
        steps, self._runs[self._begun] = self._runs[self._begun], []
        self._begun += 1
        return Run(steps)

    def release(self) -> None:
        """Let go of masks that runs to come do not refer to."""
        live = [last >= self._begun for last in self._last]
        self.masks = [mask if kept else None for mask, kept in zip(self.masks, live, strict=True)]

    def payloads(self) -> Iterator[Payload]:
        """What the runs that have not begun take memory for: fields of messages, and masks."""
        for steps in self._runs[self._begun :]:
            for step in steps:
                for message in step.messages:
                    yield from message.fields
        yield from (self.masks[place] for place in self._idle())

    def replace(self, payloads: Iterator[Any]) -> None:
        """Put other things in the places of ``payloads``, in the same order."""
        for steps in self._runs[self._begun :]:
            for step in steps:
                step.messages = [
                    message._replace(fields=tuple(itertools.islice(payloads, len(message.fields))))
                    for message in step.messages
                ]
        for place in self._idle():
            self.masks[place] = next(payloads)

    def _idle(self) -> list[int]:
        """Places of masks that nothing uses before a run that has not begun."""
        return [place for place, made in enumerate(self._made) if made >= self._begun]

    def mask(self, mask: Mask) -> Elements:
        """The mask that is meant."""
        return self.masks[mask] if isinstance(mask, int) else mask

    def keep(self, mask: Elements, element_bytes: int) -> None:
        """Add a mask that has just been made."""
        if mask is not None and id(mask) not in self._places:
            self._places[id(mask)] = len(self.masks)
            self.masks.append(mask)
            self._made.append(len(self._runs) - 1)
            self._last.append(len(self._runs) - 1)
            self.size += size_of(mask, element_bytes)

    def ref(self, mask: Elements) -> Mask:
        """How to refer to a mask, in the run that is being made."""
        place = None if mask is None else self._places.get(id(mask))
        if place is None:
            return mask
        self._last[place] = len(self._runs) - 1
        return place


class Ahead:
    """The provider in front of the parties.

    Args:
        provider: the provider; it is left as it is.
        block: what is made.
        store: what the provider holds, which is read and never changed.
        limit: bytes that may be kept.
        begin: gives the next operation's number.
        done: hears of each step with what the provider took for it.
    """

    def __init__(
        self,
        provider: Party,
        block: Block,
        store: Mapping[int, ArithmeticShare],
        limit: int,
        begin: Callable[[], int],
        done: Callable[[Step, float, float], None],
    ) -> None:
        self.block = block
        self._store = store
        self._limit = limit
        self._begin = begin
        self._done = done
        self._held: dict[int, ArithmeticShare] = {}
        self._copies: dict[int, tuple[ArithmeticShare, ArithmeticShare]] = {}
        self._roots: dict[int, tuple[Root, Root]] = {}
        self._older: dict[int, Elements] = {}
        self._sent: list[Message] = []
        self._party = provider.ahead(block.secrets[provider.rank], self)

    def send(self, message: Message) -> None:
        """Keep a message of the provider."""
        if message.round:
            raise _takes_part()
        self._sent.append(message)

    def command(
        self, name: str, inputs: Sequence[int], results: Sequence[int], public: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Do the provider's part of a command on copies of its objects.

        Raises:
            KeyError: there is no such operand.
            UnsupportedOperationError: the protocol needs the provider online.
            PreparationError: no more may be kept.
            ProtocolError: the operation has another number of results.
        """
        found, held = operations.find(name), [self.get(number) for number in inputs]
        before = [one._replace(whole=self.block.ref(one.whole), own=self.block.ref(one.own)) for one in describe(held)]
        step = Step(self.block, self._begin(), name, len(results), public, before)
        versions = [share.root.version for share in held]
        start = time.perf_counter()
        self._party.begin(step.number)
        parts = self._finish(found(self._party, *held, **public))
        if len(parts) != len(results):
            raise ProtocolError(f"{name} gives {len(parts)} results, and {len(results)} numbers came for them.")
        end = time.perf_counter()
        step.messages, self._sent = self._sent, []
        step.size = sum(message.size for message in step.messages)
        self._keep_masks((*held, *parts))
        step.note(held, versions, parts)
        self.block.add(step)
        self._held.update(zip(results, parts, strict=True))
        self._done(step, start, end)
        if self.block.size > self._limit:
            raise PreparationError(
                f"More than {self._limit} bytes were prepared, in run {self.block.left}. Prepare fewer runs at a time, "
                "save them before the next ones, or raise max_bytes."
            )
        return tuple(results)

    def _finish(self, coroutine: Any) -> tuple[ArithmeticShare, ...]:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return (end.value,) if isinstance(end.value, ArithmeticShare) else tuple(end.value)
        finally:
            coroutine.close()
        raise _takes_part()

    def _keep_masks(self, shares: Sequence[ArithmeticShare]) -> None:
        """Enter masks that are new into the block."""
        for share in shares:
            for record in (share.root.masked, share.masked):
                if record is not None and record.version == share.root.version and id(record.mask) not in self._older:
                    self.block.keep(record.mask, self._party.ring.element_bytes)

    def get(self, number: int) -> ArithmeticShare:
        """The copy of an object, or a result."""
        found = self._held.get(number)
        if found is None:
            found = self._held[number] = self._copy(self._store[number])
        return found

    def _copy(self, share: ArithmeticShare) -> ArithmeticShare:
        known = self._copies.get(id(share))
        if known is None:
            known = self._copies[id(share)] = share, _alike(share, self._root(share.root), share.masked)
            self._note_old(share.masked)
        return known[1]

    def _root(self, root: Root) -> Root:
        known = self._roots.get(id(root))
        if known is None:
            copied = Root(root.data)
            copied.version, copied.masked = root.version, root.masked
            known = self._roots[id(root)] = root, copied
            self._note_old(root.masked)
        return known[1]

    def _note_old(self, record: MaskedOperand | None) -> None:
        """Note a mask that was not made in the block."""
        if record is not None:
            self._older[id(record.mask)] = record.mask

    def put(self, number: int, data: Elements) -> int:
        """Hold a new object; ``data`` is empty."""
        self._held[number] = ArithmeticShare(data)
        return number

    def stand_in(self, numbers: Mapping[int, int]) -> None:
        """Hold objects of the layout of others that were never used, under numbers of their own."""
        roots: dict[int, Root] = {}
        for new, number in numbers.items():
            share = self.get(number)
            root = roots.setdefault(id(share.root), Root(share.root.data))
            self._held[new] = _alike(share, root, None)

    def free(self, number: int) -> None:
        """Forget an object."""
        self._held.pop(number, None)


class Run:
    """The steps of one run while a program takes them, in order.

    Attributes:
        used: how many were taken.
        beside: commands that were dealt for anew.
        reason: why the first of them was.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = deque(steps)
        self.used = 0
        self.beside = 0
        self.reason = ""

    def __repr__(self) -> str:
        return f"Run({self.used} used, {len(self._steps)} left)"

    @property
    def left(self) -> int:
        """How many were not taken."""
        return len(self._steps)

    def take(
        self, name: str, held: Sequence[ArithmeticShare], outputs: int, public: Mapping[str, Any]
    ) -> tuple[Step | None, str]:
        """The next step, if it was made for this command, else why it was not. Nothing gives it out again."""
        if not self._steps:
            return None, f"{name} came after the last command that was prepared"
        misfit = self._steps[0].misfit(name, held, outputs, public)
        if misfit:
            return None, misfit
        self.used += 1
        return self._steps.popleft(), ""

    def miss(self, reason: str) -> None:
        """Count a command that was dealt for anew."""
        self.beside += 1
        self.reason = self.reason or reason


def describe(held: Sequence[ArithmeticShare]) -> list[Operand]:
    """What the provider's work depends on of its operands."""
    shares, roots = [id(share) for share in held], [id(share.root) for share in held]
    return [
        Operand(_layout(share), roots.index(id(share.root)), shares.index(id(share)), *_masks(share)) for share in held
    ]


def _layout(share: ArithmeticShare) -> tuple[Any, ...]:
    data = share.data
    if not isinstance(data, Tensor):
        return tuple(data.shape), share.data is share.root.data
    return tuple(data.shape), data.stride(), data.storage_offset(), share.root.data.numel()


def _masks(share: ArithmeticShare) -> tuple[Elements, Elements]:
    """Masks under which the storage and the view are open, as far as they still fit."""
    version = share.root.version
    both = (share.root.masked, share.masked)
    whole, own = (record.mask if record is not None and record.version == version else None for record in both)
    return whole, own


def _alike(share: ArithmeticShare, root: Root, masked: MaskedOperand | None) -> ArithmeticShare:
    """A share of the same layout in another storage."""
    made = ArithmeticShare(share.data, root)
    made.masked = masked
    return made


def _normal(value: Any) -> Any:
    """A public argument as far as the provider's work may depend on it: of tensors, shape and type."""
    if isinstance(value, (Tensor, np.ndarray)):
        return "tensor", tuple(value.shape), str(value.dtype)
    if isinstance(value, BilinearMap):
        return type(value), _normal(vars(value))
    if isinstance(value, Mapping):
        return {key: _normal(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_normal(part) for part in value)
    return value


def no_values() -> PreparationError:
    """The error for a program that opens something while it is prepared."""
    return PreparationError(
        "A program that is being prepared has no values: it cannot open a tensor. Let it return the tensor, and call "
        "get() on the result of the real run."
    )


def _takes_part() -> UnsupportedOperationError:
    return UnsupportedOperationError(
        "The provider of this protocol takes part online, so its work cannot be done ahead. Share with "
        'protocol="tables", whose provider only deals.'
    )
