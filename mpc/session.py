"""A session: members who compute together, and the driver's way to command them.

The driver holds numbers of objects, never shares. ``VirtualSession`` runs all members in this process;
``sharetorch.remote.network`` has the session whose members are processes on machines of their own.
"""

from __future__ import annotations

import itertools
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

from torch import Tensor

from sharetorch.mpc.channel import Message
from sharetorch.mpc.cost import DRIVER, Ledger
from sharetorch.mpc.errors import MembersError, UnsupportedOperationError
from sharetorch.mpc.preparing import Ahead, Run
from sharetorch.mpc.protocols.suite import Suite
from sharetorch.mpc.ring import Ring
from sharetorch.mpc.tape import OUTSIDE, Tape, recorders


class Member(Protocol):
    """Whoever can take part: something with a name and a store of objects."""

    id: str

    @property
    def store(self) -> MutableMapping[int, Any]:
        """Objects by number."""


_ids = itertools.count(int.from_bytes(os.urandom(4), "big"))


def new_id() -> int:
    """A number for an object, unique in this process."""
    return next(_ids)


class Waiting(ABC):
    """A command that waits, for it may be given together with the next one.

    Attributes:
        passed_over: whether it waits until somebody asks for its results, or something is written.
        patient: likewise, and at most until somebody looks at the session's costs.
        lasting: whether it may wait across the beginning of a run that was prepared.
        writes: whether it writes to objects; then it waits alone, and is given even if nobody holds it.
    """

    passed_over = False
    patient = False
    lasting = False
    writes = False

    @abstractmethod
    def settle(self) -> None:
        """Give the command."""


W = TypeVar("W", bound=Waiting)

_WRITING = frozenset({"write", "write_all", "descend"})


class Preparations:
    """How programs are prepared, filled in by ``mpc.tensor.preparing`` while it is imported."""

    prepare: Callable[..., Any]
    load: Callable[..., Any]


preparations = Preparations()


class Session(ABC):
    """Parties, an optional provider, a ring and a protocol suite.

    Args:
        parties: who holds shares, in order of rank; at least two, or one for the plaintext suite.
        provider: who deals correlated randomness; None for sessions that only hold shares and compute sums.
        ring: where shares live.
        suite: the protocols.

    Attributes:
        costs: rounds and bytes by operation.
        debug: whether results are checked for their range.
        vault: what was prepared and saved to files.
        ended: whether the session takes no more commands.
        ahead: whether commands are not waited for, so that what can be checked before must be.

    Raises:
        MembersError: fewer than two parties, a party twice, or the provider among the parties.
    """

    ended = False
    ahead = False

    def __init__(self, parties: Sequence[Member], provider: Member | None, ring: Ring, suite: Suite) -> None:
        check_members(parties, provider, suite)
        self.parties = tuple(parties)
        self.provider = provider
        self.ring = ring
        self.suite = suite
        self.costs = Ledger(self.sync)
        self._waiting: list[Callable[[], Waiting | None]] = []
        self.debug = False
        self.vault: Any = None
        self._members = (*self.parties, provider) if provider is not None else self.parties

    def __repr__(self) -> str:
        names = ", ".join(member.id for member in self.parties)
        provider = f", provider {self.provider.id}" if self.provider is not None else ""
        return f"<{type(self).__name__} {names}{provider}, {self.suite.name}>"

    def wait(self, command: Waiting) -> None:
        """Let a command wait until the next one; what writes waits alone, but for patient ones that came before."""
        if any(made.writes for made in self._who_waits()):
            self._settle_all()
        elif command.writes:
            self._settle(passed_over=True)
        self._waiting.append((lambda: command) if command.writes else weakref.ref(command))

    def _who_waits(self) -> list[Waiting]:
        return [made for find in self._waiting if (made := find()) is not None]

    def all_waiting(self, kind: type[W]) -> list[W]:
        """The commands of a kind that wait, in the order in which they came."""
        return [made for made in self._who_waits() if isinstance(made, kind)]

    def waiting(self, kind: type[W]) -> W | None:
        """A command of a kind that waits, if there is one."""
        return next(iter(self.all_waiting(kind)), None)

    @contextmanager
    def without(self, commands: Sequence[Waiting] | None = None) -> Iterator[None]:
        """Let these commands wait on during the block, or all: what happens there concerns none of them."""
        aside = [made for made in self._waiting if commands is None or made() in commands]
        self._waiting = [made for made in self._waiting if made not in aside]
        try:
            yield
        finally:
            self._waiting = [*aside, *self._waiting]

    def forget(self, command: Waiting) -> None:
        """A command no longer waits."""
        self._waiting = [made for made in self._waiting if made() not in (command, None)]

    def _settle(self, *, passed_over: bool = False, patient: bool = False) -> None:
        """Give what waits, the last first; what was passed over and what is patient only if that is wanted."""
        for made in reversed(self._waiting):
            command = made()
            if command is None or (command.passed_over and not passed_over) or (command.patient and not patient):
                continue
            command.settle()
        self._waiting = [made for made in self._waiting if made() is not None]

    def _settle_all(self, *, lasting: bool = True) -> None:
        """Give everything that waits, perhaps without what may last."""
        last = [] if lasting else [made for made in self._who_waits() if made.lasting]
        with self.without(last):
            self._settle(passed_over=True, patient=True)

    def command(self, name: str, *inputs: int, outputs: int = 1, **public: Any) -> tuple[int, ...]:
        """Let all members run an operation on objects they hold, after what waits.

        Args:
            name: an operation of the command table.
            inputs: numbers of the operands.
            outputs: how many results the operation has.
            public: its public arguments.

        Returns:
            Numbers of the results.

        Raises:
            ObjectGoneError: an operand no longer exists.
            ShareTorchError: what the operation raises; then no result is stored.
        """
        if self._waiting:
            self._settle(passed_over=name in _WRITING, patient=name in _WRITING)
        return self._give(name, inputs, outputs, public)

    def _give(self, name: str, inputs: Sequence[int], outputs: int, public: dict[str, Any]) -> tuple[int, ...]:
        made = self._command(name, inputs, outputs, public)
        if recorders.tapes or recorders.watched:
            recorders.note(self, name, inputs, made, public)
        return made

    @abstractmethod
    def _command(self, name: str, inputs: Sequence[int], outputs: int, public: dict[str, Any]) -> tuple[int, ...]:
        """As ``command``, once nothing waits."""

    @abstractmethod
    def distribute(self, values: Tensor) -> int:
        """Split integers of the driver into shares and hand one to each party. Returns the object's number."""

    @abstractmethod
    def reveal_elements(self, number: int) -> Any:
        """Ring elements behind an object, opened to the driver from freshly re-randomised shares."""

    def reveal(self, number: int) -> Tensor:
        """Signed integers behind an object, opened to the driver from freshly re-randomised shares."""
        recorders.refuse("it opens a tensor: return it, and open the result")
        return self.ring.to_signed(self.reveal_elements(number))

    @abstractmethod
    def free(self, number: int) -> None:
        """Let every member forget an object."""

    def sync(self) -> None:
        """Wait until all commands are done, and raise what went wrong."""
        if self._waiting:
            self._settle(patient=True)

    def close(self) -> None:  # noqa: B027 (members of this process forget when their handles go)
        """End the session: its members forget what they hold."""

    @contextmanager
    def recording(self, arguments: Sequence[int]) -> Iterator[Tape]:
        """Note the commands given in the block; what waits before it, or at its end, is given.

        Args:
            arguments: numbers of the objects that other runs will have others for.
        """
        self._settle_all(lasting=False)
        tape = Tape(self, arguments, new_id())
        with recorders.noting(tape):
            yield tape
            self._settle(patient=True)

    def repeat(self, tape: Tape, arguments: Sequence[int]) -> list[int]:
        """Give the commands of a tape for other arguments.

        Args:
            tape: whose run is over.
            arguments: numbers of objects laid out like those of the recorded run, in the same order.

        Returns:
            Numbers of the results of all commands, of which those exist that the program returned.

        Raises:
            ObjectGoneError: an object that the program uses no longer exists.
            ShareTorchError: what an operation raises; the commands before it are done.

        Cost: of the commands.
        """
        self._settle_all()
        made: list[int] = []
        found = (arguments, made)
        try:
            for name, inputs, outputs, public, over in tape.entries:
                numbers = [number if kind == OUTSIDE else found[kind][number] for kind, number in inputs]
                made += self._give(name, numbers, outputs, dict(public))
                for number in over:
                    self.free(made[number])
        except BaseException:
            for number in made:
                self.free(number)
            raise
        return made

    def holds(self, numbers: Iterable[int]) -> bool:
        """Whether all these objects exist, as far as is known here."""
        return False

    def names(self) -> dict[int, str]:
        """Member ids by rank, the driver included."""
        return {DRIVER: "driver", **{rank: member.id for rank, member in enumerate(self._members)}}

    def prepare(
        self, program: Callable[..., Any], *example_inputs: Any, count: int = 1, max_bytes: int = 1 << 30
    ) -> Any:
        """Let the provider do its part of a program ahead of the parties.

        The program is called ``count`` times on stand-ins without values, as coming runs will call it: shared tensors
        among the arguments stand for ones of the same layout that were never used, everything else is as it is. It
        must open nothing and have no effects but on tensors, modules and optimizers, which are put back.

        Args:
            program: what will be run.
            example_inputs: arguments like those it will get.
            count: how many runs to prepare.
            max_bytes: of corrections and masks that may be kept.

        Returns:
            A ``Prepared``: ``with prepared: program(...)`` runs the program without the provider.

        Raises:
            UnsupportedOperationError: the protocol needs its provider online.
            PreparationError: the program opens something, or more than ``max_bytes`` would be kept.

        Cost: what the provider sends offline in the runs, now instead of then. The parties do nothing.
        Leaks: nothing; what is prepared depends on shapes and public arguments.
        """
        return preparations.prepare(self, program, example_inputs, count, max_bytes)

    def load_prepared(self, path: str | os.PathLike[str]) -> Any:
        """What ``Prepared.save`` wrote in this session, once. The file is deleted.

        Args:
            path: of the file; if the members are on other machines, its plain name, for it is with the provider.

        Raises:
            CorrelationReusedError: the file was loaded before.
            PreparationError: it is missing, damaged, or another session's.
        """
        return preparations.load(self, path)

    def require_idle(self) -> None:  # noqa: B027 (only where the members are all here can it be otherwise)
        """Raise unless the session neither prepares nor uses what was prepared.

        Raises:
            PreparationError: it does.
        """

    def dealing_ahead(self, limit: int) -> AbstractContextManager[Ahead]:
        """Inside the block commands are done by the provider alone, ahead of the parties.

        Args:
            limit: bytes that may be kept.

        Raises:
            UnsupportedOperationError: this kind of session cannot.
            MembersError: there is no provider.
            PreparationError: this is under way already.
        """
        raise self._not_here("Prepare in a session of virtual workers.")

    def taking(self, run: Run) -> AbstractContextManager[None]:
        """Inside the block commands take what was prepared for them.

        Raises:
            UnsupportedOperationError: this kind of session cannot.
            PreparationError: this is under way already.
        """
        raise self._not_here("Prepare in a session of virtual workers.")

    def _not_here(self, remedy: str) -> UnsupportedOperationError:
        return UnsupportedOperationError(f"{self!r} has its members on other machines. {remedy}")

    def record(self) -> AbstractContextManager[list[Message]]:
        """Keep a copy of every message sent inside the block, in order: the members' views.

        Raises:
            UnsupportedOperationError: the members are not all here.
        """
        raise UnsupportedOperationError(
            f"{self!r} has its members on other machines, and nobody sees all their messages. Record the same program "
            "with virtual workers."
        )


def object_is_gone(member: str, number: int) -> str:
    """What to say of an object that a member does not hold."""
    return f"{member} no longer holds object {number}: it was deleted or moved. Share the data again."


def check_members(parties: Sequence[Member], provider: Member | None, suite: Suite) -> None:
    """Raise ``MembersError`` unless these members can form a session."""
    ids = [member.id for member in parties]
    if suite.name == "plaintext":
        return
    if len(ids) < 2:
        raise MembersError(
            f"Sharing needs at least 2 parties, {len(ids)} given ({', '.join(ids) or 'none'}): "
            "a single holder would see the data. Name another party."
        )
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise MembersError(
            f"{', '.join(twice)} is named twice among the parties {', '.join(ids)}: it would hold two shares. "
            "Name each party once."
        )
    if provider is not None and provider.id in ids:
        raise MembersError(
            f"{provider.id} is both a party and the crypto provider: it would see the masks of what is opened to it. "
            "Name a provider outside the parties."
        )
