"""What a member of a session keeps of prepared programs, and what of it may come next.

A block is what was prepared in one go. Parties keep its secrets, the provider its runs and their steps. Blocks and runs
are numbered by the driver, each one more than the last, and a run begins once: so nothing is used twice, whatever a
driver sends. Files of the provider lie in a folder of the session and are deleted with it.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharetorch.mpc.errors import (
    CorrelationReusedError,
    LimitExceededError,
    MalformedRequestError,
    PreparationError,
    ProtocolError,
)
from sharetorch.mpc.network.member import Member, Taking
from sharetorch.mpc.preparing import Ahead, Block, Step
from sharetorch.mpc.randomness import PairSecret
from sharetorch.mpc.ring import Elements, Ring
from sharetorch.mpc.share import ArithmeticShare
from sharetorch.mpc.tensor.prepared_files import Vault
from sharetorch.remote.sessions.messages import Dealt, Used

MAX_BLOCKS = 1024
"""Blocks of one session that are not used up or forgotten."""
MAX_ENTRIES = 1 << 20
"""Operations and objects of one block."""
_REASON = 400
_STEPS = 1 << 32
"""Numbers of steps of block b begin behind b times this, so that no step has the number of another or of a command."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def check_file_name(name: str) -> str:
    """Refuse what cannot be the name of a file in a provider's folder.

    Raises:
        PreparationError: it is no text of 1 to 64 letters, digits, "_", "-" and ".", or begins with "-" or ".".
    """
    if not _NAME.fullmatch(name):
        raise PreparationError(
            f"{name[:80]!r} is no name for a file of a provider on another machine. Use 1 to 64 letters, digits, '_', "
            "'-' or '.', not '-' or '.' first, and no folders."
        )
    return name


class Tracing:
    """A block that is being made at the provider.

    Args:
        member: the provider.
        number: of the block.
        secrets: of the provider, for the block.
        asked: bytes the driver lets it keep.
        room: bytes this worker has for it.

    Attributes:
        block: what is made.
        whole: whether nothing has failed.
    """

    def __init__(self, member: Member, number: int, secrets: dict[int, PairSecret], asked: int, room: int) -> None:
        self.block = Block([*({} for _ in range(member.party.parties)), secrets])
        self.whole = True
        self._member = member
        self._scarce = room < asked
        self._made: set[int] = set()
        self._entries = 0
        self._dealt = Dealt({}, 0.0)
        numbers = itertools.count(_STEPS * number + 1)
        self._ahead = Ahead(member.party, self.block, member.store, min(asked, room), lambda: next(numbers), self._note)

    def _note(self, step: Step, begin: float, end: float) -> None:
        sizes: dict[int, int] = {}
        for message in step.messages:
            sizes[message.receiver] = sizes.get(message.receiver, 0) + message.size
        self._dealt = Dealt(sizes, end - begin)

    @contextmanager
    def doing(self, entries: int = 1) -> Iterator[None]:
        """Inside the block so many operations and objects are added; after an error no more are.

        Raises:
            PreparationError: there was an error.
            LimitExceededError: there are too many.
        """
        if not self.whole:
            raise PreparationError("Something before it failed, so nothing more is prepared in this block.")
        try:
            self._entries += entries
            if self._entries > MAX_ENTRIES:
                raise LimitExceededError(
                    f"{self._entries} operations and objects in one block; {self._member.name} takes {MAX_ENTRIES}. "
                    "Prepare fewer runs at a time."
                )
            yield
        except BaseException:
            self.whole = False
            raise

    def _require_new(self, numbers: Sequence[int]) -> None:
        self._member.require_free(numbers)
        if not self._made.isdisjoint(numbers):
            raise MalformedRequestError(f"Objects under the numbers {list(numbers)[:8]}: the block has some already.")

    def _get(self, number: int) -> ArithmeticShare:
        if number not in self._made:
            self._member.get(number)
        return self._ahead.get(number)

    def stand_in(self, run: int, numbers: Sequence[int], originals: Sequence[int]) -> None:
        """Begin the next run, with objects like others that were never used.

        Raises:
            ProtocolError: it is not the next run.
            MalformedRequestError: a number is taken, or the lists differ in length.
            ObjectGoneError: an original is not there.
        """
        if run != self.block.left + 1:
            raise ProtocolError(f"The driver prepares run {run} after {self.block.left}; an item was lost.")
        if len(numbers) != len(originals):
            raise MalformedRequestError(f"{len(numbers)} objects like {len(originals)} others.")
        self._require_new(numbers)
        for number in originals:
            self._get(number)
        self.block.next_run()
        self._ahead.stand_in(dict(zip(numbers, originals, strict=True)))
        self._made.update(numbers)

    def put(self, number: int, data: Elements) -> None:
        """Hold a new object; ``data`` is empty.

        Raises:
            MalformedRequestError: the number is taken.
        """
        self._require_new([number])
        self._ahead.put(number, data)
        self._made.add(number)

    def command(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], public: Mapping[str, Any], gone: Sequence[int]
    ) -> Dealt:
        """Do the provider's part of an operation, and keep what it sends.

        Raises:
            ShareTorchError: what the operation raises, or ``Ahead.command``.
        """
        if not self.block.left:
            raise ProtocolError(f"{name} is to be prepared before a run has begun.")
        for number in self._made.intersection(gone):
            self._ahead.free(number)
        self._made.difference_update(gone)
        self._require_new(outputs)
        self._member.require_small(name, [self._get(number) for number in inputs], public)
        try:
            self._ahead.command(name, inputs, outputs, public)
        except PreparationError as error:
            raise self._explained(error) from None
        self._made.update(outputs)
        return self._dealt

    def _explained(self, error: PreparationError) -> PreparationError:
        """What to say when there is no more room."""
        if not self._scarce:
            return error
        return PreparationError(f"{error} This is what {self._member.name} has left; it can be given more store_bytes.")


class Blocks:
    """What one member keeps of prepared programs.

    Args:
        name: of the worker.
        limit: bytes it keeps of all blocks together.
        folder: for files of this session; None if there are to be none.
    """

    def __init__(self, name: str, limit: int, folder: Path | None) -> None:
        self._name = name
        self._limit = limit
        self._folder = folder
        self._last = 0
        self._begun: dict[int, int] = {}
        self._secrets: dict[int, dict[int, PairSecret]] = {}
        self._kept: dict[int, Block] = {}
        self._saved: dict[int, Block] = {}
        self._vault: Vault | None = None
        self._tracing: Tracing | None = None
        self._using = 0

    def __repr__(self) -> str:
        return f"Blocks({len(self._begun)} at {self._name})"

    @property
    def _room(self) -> int:
        return self._limit - sum(block.size for block in self._kept.values())

    def forget(self, numbers: Sequence[int]) -> None:
        """Forget blocks; those in files stay until the session ends."""
        tables: tuple[dict[int, Any], ...] = (self._begun, self._secrets, self._kept)
        for number in set(numbers).difference(self._saved):
            for table in tables:
                table.pop(number, None)

    def begin(self, member: Member, number: int, limit: int) -> None:
        """Begin a block.

        Raises:
            ProtocolError: it is not the next one, or another is being made or used.
            LimitExceededError: there are too many.
        """
        self._require_idle(member)
        if number != self._last + 1:
            raise ProtocolError(f"The driver prepares block {number} after {self._last}; one was lost or repeated.")
        if len(self._begun) >= MAX_BLOCKS:
            raise LimitExceededError(
                f"{MAX_BLOCKS} prepared blocks are not used up; {self._name} takes no more. Use or drop some first."
            )
        self._last, self._begun[number] = number, 0
        secrets = member.party.block(number)
        if member.party.is_provider:
            self._tracing = Tracing(member, number, secrets, limit, self._room)
        else:
            self._secrets[number] = secrets

    @property
    def tracing(self) -> Tracing:
        """The block that is being made here.

        Raises:
            ProtocolError: there is none.
        """
        if self._tracing is None:
            raise ProtocolError(f"{self._name} prepares nothing at the moment; the driver must begin a block first.")
        return self._tracing

    def finish(self, keep: bool) -> None:
        """The block is made, or given up.

        Raises:
            ProtocolError: none is being made.
        """
        tracing, self._tracing = self.tracing, None
        tracing.block.finish()
        if keep and tracing.whole:
            self._kept[self._last] = tracing.block

    def require_made(self) -> None:
        """Refuse what cannot be done while a block is being made.

        Raises:
            ProtocolError: one is.
        """
        if self._tracing is not None:
            raise ProtocolError(f"{self._name} prepares a program; the driver must finish that first.")

    def _require_idle(self, member: Member) -> None:
        self.require_made()
        if member.taking is not None:
            raise ProtocolError(f"{self._name} is in a prepared run; the driver must leave it first.")

    def use(self, member: Member, number: int, run: int) -> None:
        """Begin a prepared run.

        Raises:
            CorrelationReusedError: it was begun before.
            ProtocolError: it is not the next one of its block, or another has not ended.
            PreparationError: the block is not here.
        """
        self._require_idle(member)
        begun = self._begun.get(number)
        if begun is not None and run <= begun:
            raise CorrelationReusedError(
                f"Run {run} of block {number} was used before. A second use would reveal differences of secrets."
            )
        if begun is None or run != begun + 1:
            raise ProtocolError(f"There is no run {run} of block {number} that could begin now at {self._name}.")
        steps = None
        if member.party.is_provider:
            if number not in self._kept:
                raise PreparationError(f"{self._name} does not hold block {number}: it is in a file, or was given up.")
            steps = self._kept[number].begin()
        self._begun[number], self._using = run, number
        member.taking = Taking(self._secrets.get(number, {}), steps)

    def leave(self, member: Member) -> Used | None:
        """End the run: what it did not use is given up. At the provider, what became of it.

        Raises:
            ProtocolError: there is none.
        """
        taking, member.taking = member.taking, None
        if taking is None:
            raise ProtocolError(f"{self._name} is in no prepared run that could end.")
        run, block = taking.run, self._kept.get(self._using)
        if block is not None:
            block.release()
            if not block.left:
                del self._kept[self._using]
        return None if run is None else Used(run.used, run.beside, run.left, run.reason[:_REASON])

    def save(self, member: Member, number: int, name: str, ring: Ring) -> int:
        """Move a block to a file; gives its size.

        Raises:
            PreparationError: this worker keeps no files, the file cannot be written, or a run has not ended.
            CorrelationReusedError: there are no runs left.
        """
        path = self._path(name)
        if member.taking is not None and self._using == number:
            raise PreparationError(f"A run of block {number} has not ended at {self._name}. Leave it first.")
        block = self._kept.get(number)
        if block is None or not block.left:
            raise CorrelationReusedError(f"{self._name} has nothing left of block {number}; prepare anew.")
        self._vault = self._vault or Vault(ring)
        size = self._vault.save(block, path)
        self._saved[number] = self._kept.pop(number)
        return size

    def load(self, name: str, ring: Ring) -> int:
        """Hold the block that a file has, and delete the file; gives the block's number.

        Raises:
            CorrelationReusedError: it was loaded before.
            PreparationError: it is missing, damaged or another session's, there is no room for it, or a program is
                being prepared.
        """
        path = self._path(name)
        if self._tracing is not None:
            raise PreparationError(f"{self._name} prepares a program. Load {name} before it or after it.")
        self._vault = self._vault or Vault(ring)
        block = self._vault.load(path, self._room)
        number = next(number for number, saved in self._saved.items() if saved is block)
        self._kept[number] = self._saved.pop(number)
        return number

    def _path(self, name: str) -> Path:
        if self._folder is None:
            raise PreparationError(
                f"{self._name} keeps no files: it has no state folder. Start it with --state FOLDER, or with `state` "
                "in its settings."
            )
        return self._folder / check_file_name(name)

    def burn(self) -> None:
        """Forget everything, and delete files, which nobody can read any more."""
        if self._folder is not None and self._vault is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._tracing = self._vault = None
        tables: tuple[dict[int, Any], ...] = (self._begun, self._secrets, self._kept, self._saved)
        for table in tables:
            table.clear()
