"""A budget of epsilon in a file: a step is written down, through to the disk, before anything of it is done.

What is written counts as spent, whether or not the step was carried out: a crash right afterwards loses budget, never
privacy. The file is a line for what the budget is and one for each step,

    SHA-256 of (hash of the line before, contents)   contents, JSON

only ever grows, and is locked while it is open. Beside it lies a *witness*, a file with the number of lines and the
hash of the last one, replaced after each step: a ledger that is behind its witness is an old copy. The witness is of
most use where old copies of the ledger do not go, on another disk; both restored together from one backup look right.
``head`` is to be noted where that matters, and given as ``known``. Hashes show damage and old copies, no intent:
whoever may write the files can make any.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import msgspec

from sharetorch.fl.privacy.accounting import Step, epsilon
from sharetorch.fl.privacy.errors import (
    AccountingError,
    BudgetExceededError,
    LedgerDamagedError,
    LedgerError,
    LedgerInUseError,
    LedgerRewoundError,
)
from sharetorch.mpc.randomness import system_entropy

_DIGEST = 64
_FIRST = "0" * _DIGEST
_ID_BYTES = 16


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a budget is.

    Attributes:
        federation: whose it is.
        epsilon: what may be spent.
        delta: for which epsilon is meant.
        id: of this budget, random.
        format: of the file.
    """

    federation: str
    epsilon: float
    delta: float
    id: str
    format: int = 1


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step.

    Attributes:
        number: of the step, from 1.
        round: it belongs to; 0 for none.
        step: what was accounted for.
    """

    number: int
    round: int
    step: Step


class Budget:
    """What may be spent on one set of contributions, and what has been.

    Args:
        path: of the file; made if it is not there, readable by its owner only.
        federation: a name; a file belongs to one only.
        epsilon: what may be spent in all.
        delta: for which epsilon is meant.
        witness: see above; beside the file if not given.
        known: ``head`` as it was noted last; the file must hold that line.

    Raises:
        LedgerInUseError: it is open elsewhere, or another federation's.
        LedgerDamagedError: it holds something else than was written.
        LedgerRewoundError: it holds less than was spent, as far as witness and ``known`` tell.
        LedgerError: it cannot be read or written, or was begun with another epsilon or delta.
        AccountingError: an epsilon or delta that is none.
        MissingExtraError: opacus is not installed.
    """

    def __init__(
        self,
        path: Path | str,
        federation: str,
        epsilon: float,
        delta: float,
        witness: Path | str | None = None,
        known: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._header = Header(federation, float(epsilon), float(delta), system_entropy(_ID_BYTES).hex())
        if not 0 < self._header.epsilon < float("inf"):
            raise AccountingError(f"epsilon is {epsilon}; a budget is a positive number.")
        self._witness = Path(witness) if witness is not None else self.path.with_name(self.path.name + ".witness")
        self._turn = threading.Lock()
        self._entries: list[Entry] = []
        self._hashes: list[str] = []
        self._size = 0
        _epsilon_of([], self._header.delta)
        self._file = self._opened()
        try:
            self._read(known)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        header = self._header
        return f"<Budget of {header.federation}: epsilon {header.epsilon:g}, {len(self._entries)} steps>"

    def __enter__(self) -> Budget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others open the file."""
        number, self._file = self._file, -1
        if number >= 0:
            os.close(number)

    @property
    def allowed(self) -> float:
        """What may be spent in all."""
        return self._header.epsilon

    @property
    def delta(self) -> float:
        """For which epsilon is meant."""
        return self._header.delta

    @property
    def spent(self) -> float:
        """The epsilon of all steps that were written down."""
        return _epsilon_of(self._entries, self.delta)

    @property
    def rounds(self) -> int:
        """The last round that was written down; 0 for none."""
        return max((entry.round for entry in self._entries), default=0)

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return self._hashes[-1]

    def after(self, step: Step) -> float:
        """What would be spent after a step."""
        return _epsilon_of([*self._entries, Entry(0, 0, step)], self.delta)

    def spend(self, step: Step, round: int = 0) -> float:
        """Write a step down, before anything of it is done.

        Args:
            step: what is going to be done.
            round: it belongs to.

        Returns:
            The epsilon spent, this step included.

        Raises:
            BudgetExceededError: it would be too much; nothing was written.
            AccountingError: a step without a bound.
            LedgerRewoundError: the file was exchanged or cut off meanwhile.
            LedgerError: it cannot be written; then the step must not be done.
        """
        with self._turn:
            asked = self.after(step)
            if not asked <= self.allowed:
                spent = self.spent
                raise BudgetExceededError(
                    f"{self._header.federation} has spent epsilon {spent:.4g} of {self.allowed:g} (delta "
                    f"{self.delta:g}); after this step it would be {asked:.4g}. Nothing was done. Stop here; or use "
                    "more noise, fewer steps or a larger budget from the beginning, with contributors' consent.",
                    spent,
                    asked,
                    self.allowed,
                )
            self._require_same_file()
            entry = Entry(len(self._entries) + 1, round, step)
            self._append(msgspec.json.encode(entry))
            self._entries.append(entry)
            self._testify()
            return asked

    # ------------------------------------------------------------------------------------------------------ the file

    def _opened(self) -> int:
        try:
            number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self._fail(error)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(number)
            raise LedgerInUseError(
                f"The ledger {self.path} is open already. Two runs with one budget would spend it twice; end the other "
                "one, or give this one a budget of its own."
            ) from error
        return number

    def _read(self, known: str | None) -> None:
        try:
            content = _whole(self._file)
        except OSError as error:
            self._fail(error)
        lines = content.split(b"\n")[:-1]  # what follows the last end of a line was never done
        seen = self._seen_by_witness()
        bodies = [self._checked(number, line) for number, line in enumerate(lines)]
        self._size = sum(len(line) + 1 for line in lines)
        self._require_not_behind(seen, known)
        if not bodies:
            self._append(msgspec.json.encode(self._header))
            self._testify()
            return
        try:
            header = msgspec.json.decode(bodies[0], type=Header)
            self._entries = [msgspec.json.decode(body, type=Entry) for body in bodies[1:]]
        except msgspec.MsgspecError as error:
            raise self._damaged(f"written by another version ({error})") from error
        self._require_mine(header)
        if seen is None or seen != (len(self._hashes), self.head):
            self._testify()

    def _checked(self, number: int, line: bytes) -> bytes:
        """The contents of a line."""
        before = self._hashes[-1] if self._hashes else _FIRST
        digest, body = line[:_DIGEST], line[_DIGEST + 1 :]
        if _hash(before, body).encode() != digest:
            raise self._damaged(f"line {number + 1} does not fit the one before")
        self._hashes.append(digest.decode())
        return body

    def _require_not_behind(self, seen: tuple[int, str] | None, known: str | None) -> None:
        if known is not None and known not in self._hashes:
            raise self._rewound(f"it does not hold the line {known[:16]}... that was noted")
        if seen is not None:
            count, head = seen
            if len(self._hashes) < count or self._hashes[count - 1] != head:
                raise self._rewound(f"its witness {self._witness} has seen {count} lines that are not all there")
        elif len(self._hashes) > 1 and known != self.head:
            raise self._rewound(
                f"its witness {self._witness} is missing, so it may be an old copy. If it is not, give its last hash "
                "as known="
            )

    def _require_mine(self, header: Header) -> None:
        mine = self._header
        if header.federation != mine.federation:
            raise LedgerInUseError(
                f"The ledger {self.path} is that of {header.federation!r}, not of {mine.federation!r}: two federations "
                "that share a budget would each spend it. Name another file."
            )
        if (header.epsilon, header.delta) != (mine.epsilon, mine.delta):
            raise LedgerError(
                f"The ledger {self.path} was begun with epsilon {header.epsilon:g} and delta {header.delta:g}, not "
                f"{mine.epsilon:g} and {mine.delta:g}. A budget does not change while it is spent; give these, or "
                "begin another one with contributors' consent."
            )

    def _require_same_file(self) -> None:
        if self._file < 0:
            raise LedgerError(f"The ledger {self.path} is closed; open it again.")
        try:
            mine, there = os.fstat(self._file), os.stat(self.path)
        except OSError as error:
            self._fail(error)
        if (mine.st_ino, mine.st_dev) != (there.st_ino, there.st_dev) or mine.st_size < self._size:
            raise self._rewound("it was exchanged or cut off while it was open")

    def _append(self, body: bytes) -> None:
        """Write a line through to the disk, over what a crash may have left of one."""
        digest = _hash(self._hashes[-1] if self._hashes else _FIRST, body)
        line = digest.encode() + b" " + body + b"\n"
        try:
            os.ftruncate(self._file, self._size)
            if os.pwrite(self._file, line, self._size) != len(line):
                raise OSError(0, "a line was not written whole")
            os.fsync(self._file)
            _sync(self.path.parent)
        except OSError as error:
            self._fail(error)
        self._size += len(line)
        self._hashes.append(digest)

    def _testify(self) -> None:
        """Replace the witness."""
        temporary = ""
        try:
            number, temporary = tempfile.mkstemp(dir=self._witness.parent, prefix=f".{self._witness.name}")
            with os.fdopen(number, "wb") as stream:
                stream.write(b"%d %s\n" % (len(self._hashes), self.head.encode()))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self._witness)
            _sync(self._witness.parent)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            self._fail(error)

    def _seen_by_witness(self) -> tuple[int, str] | None:
        try:
            count, head = self._witness.read_text(encoding="ascii").split()
            return int(count), head
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise LedgerDamagedError(
                f"The witness {self._witness} of the ledger {self.path} cannot be read ({error}). Restore it; or "
                "remove it, and give the ledger's last hash as known=."
            ) from error

    def _damaged(self, why: str) -> LedgerDamagedError:
        return LedgerDamagedError(
            f"{self.path} is no whole ledger of a budget: {why}. What was spent is not known, so nothing more is. Put "
            "the file back as it was, or name another one."
        )

    def _rewound(self, why: str) -> LedgerRewoundError:
        return LedgerRewoundError(
            f"The ledger {self.path} holds less than was spent: {why}. An old copy would let the same budget be spent "
            "again. Put the newest one there."
        )

    def _fail(self, error: OSError) -> NoReturn:
        raise LedgerError(
            f"The ledger {self.path} or its witness cannot be kept: {error.strerror}. Without them a budget could be "
            "spent twice; nothing is done. Correct the path, or make room."
        ) from error


def _epsilon_of(entries: list[Entry], delta: float) -> float:
    return epsilon([entry.step for entry in entries], delta)


def _hash(before: str, body: bytes) -> str:
    return hashlib.sha256(b"sharetorch/v1/privacy budget/" + before.encode() + body).hexdigest()


def _whole(number: int) -> bytes:
    found = bytearray()
    while part := os.pread(number, 1 << 20, len(found)):
        found += part
    return bytes(found)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
