"""The driver's side of preparing: what a program asks for goes to the provider alone, which works ahead.

The driver keeps numbers of blocks and of runs, and how many bytes wait for them; corrections and secrets never come
here. The provider's answers are awaited behind the program, so that it need not wait for each.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharetorch.mpc.cost import Asked, Timing, Traffic
from sharetorch.mpc.errors import MembersError, PreparationError, ProtocolError
from sharetorch.mpc.preparing import Ahead, Block, Run
from sharetorch.mpc.session import Session, new_id
from sharetorch.remote.sessions.blocks import check_file_name
from sharetorch.remote.sessions.messages import (
    Dealt,
    Finish,
    Item,
    Leave,
    LoadPrepared,
    Placeholder,
    Prepare,
    Restored,
    Saved,
    SavePrepared,
    StandIn,
    Synced,
    Trace,
    Use,
    Used,
    written,
)

_WINDOW = 256
"""Items whose answers may be missing before the driver waits."""
_MOST = (1 << 63) - 1


class AwayRun(Run):
    """A run whose steps are at a provider on another machine.

    Attributes:
        block: number of its block.
        number: of the run, from 1.
    """

    def __init__(self, block: int, number: int) -> None:
        super().__init__(())
        self.block = block
        self.number = number
        self._left = 0

    @property
    def left(self) -> int:
        """How many steps were not taken; known when the run has ended."""
        return self._left

    def end(self, became: Used) -> None:
        """Note what the provider says of it."""
        self.used, self.beside, self._left, self.reason = became.used, became.beside, became.left, became.reason


class AwayBlock(Block):
    """A block at a provider on another machine.

    Args:
        number: of the block.
        unused: where the number goes when nobody needs the block any more.

    Attributes:
        sizes: bytes of messages for each run.
    """

    def __init__(self, number: int, unused: list[int]) -> None:
        super().__init__([])
        self.number = number
        self.sizes: list[int] = []
        weakref.finalize(self, unused.append, number).atexit = False

    @property
    def dealt(self) -> int:
        """Bytes of messages for the runs that have not begun."""
        return sum(self.sizes[self._begun :])

    def next_run(self) -> None:
        """Let the steps to come belong to another run."""
        super().next_run()
        self.sizes.append(0)

    def begin(self) -> AwayRun:
        """As ``Block.begin``."""
        super().begin()
        return AwayRun(self.number, self._begun)


class AwayAhead(Ahead):
    """What the driver has of a provider on another machine that works ahead.

    Args:
        session: whose provider it is.
        block: what is made.
    """

    block: AwayBlock

    def __init__(self, session: PreparingSession, block: AwayBlock) -> None:
        self.block = block
        self._session = session
        self._made: set[int] = set()
        self._gone: list[int] = []
        self._under_way: deque[tuple[Callable[[], Any], int, Asked | None]] = deque()

    def command(
        self, name: str, inputs: Sequence[int], results: Sequence[int], public: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """As ``Ahead.command``, but an error of the provider comes at a later one, or when the session is synced."""
        for number in inputs:
            if number not in self._made:
                self._session.require_live(number)
        gone, self._gone = self._gone, []
        item = Trace(self._session.id, name, list(inputs), list(results), written(dict(public)), gone)
        self._ask(item, Dealt)
        self._made.update(results)
        return tuple(results)

    def put(self, number: int, data: Any) -> int:
        """As ``Ahead.put``."""
        self._ask(Placeholder(self._session.id, number, list(data.shape)), Synced)
        self._made.add(number)
        return number

    def stand_in(self, numbers: Mapping[int, int]) -> None:
        """As ``Ahead.stand_in``."""
        self._ask(StandIn(self._session.id, len(self.block.sizes), list(numbers), list(numbers.values())), Synced)
        self._made.update(numbers)

    def free(self, number: int) -> None:
        """Let the provider forget an object of the block, with the next command."""
        if number in self._made:
            self._made.discard(number)
            self._gone.append(number)

    def _ask(self, item: Item, kind: type[Any]) -> None:
        while len(self._under_way) >= _WINDOW:
            self._take()
        session = self._session
        answer = session.ask_later(item, kind, session.provider_rank)
        self._under_way.append((answer, len(self.block.sizes) - 1, session.costs.asked()))

    def _take(self) -> None:
        """Wait for the oldest answer, and account for it."""
        answer, run, asked = self._under_way.popleft()
        reply = answer()
        if not isinstance(reply, Dealt):
            return
        session, traffic = self._session, Traffic(operations=1)
        rank = session.provider_rank
        for receiver, size in reply.offline.items():
            traffic.count(rank, receiver, size, offline=True)
            self.block.sizes[run] += size
        timing = Timing({}, {rank: reply.seconds}, {}, 0.0) if session.costs.wants_timing else None
        session.costs.note("prepare", traffic, reply.seconds, timing, asked)

    def drain(self) -> None:
        """Wait for all answers.

        Raises:
            ShareTorchError: what the provider could not do.
        """
        while self._under_way:
            self._take()


class AwayVault:
    """What a provider on another machine has saved for a session.

    Args:
        session: whose provider it is.
    """

    def __init__(self, session: PreparingSession) -> None:
        self._session = session
        self._blocks: dict[int, AwayBlock] = {}

    def __repr__(self) -> str:
        return f"AwayVault({len(self._blocks)} files)"

    def save(self, block: AwayBlock, path: Path) -> int:
        """As ``Vault.save``; the path is the name of a file in a folder of the provider."""
        session, name = self._session, check_file_name(str(path))
        item = SavePrepared(session.id, block.number, name)
        (saved,) = session.ask_all(item, Saved, [session.provider_rank])
        self._blocks[block.number] = block
        return int(saved.size)

    def load(self, path: Path) -> AwayBlock:
        """As ``Vault.load``."""
        session, name = self._session, check_file_name(str(path))
        (restored,) = session.ask_all(LoadPrepared(session.id, name), Restored, [session.provider_rank])
        block = self._blocks.pop(restored.block, None)
        if block is None:
            raise ProtocolError("The provider loaded a block that this session has not saved.")
        return block


class PreparingSession(Session):
    """A session whose provider works ahead on another machine."""

    id: bytes

    @abstractmethod
    def ask_all(self, item: Item, kind: type[Any], members: Sequence[int] | None = None) -> list[Any]:
        """Send an item to all members, or to those of some ranks, and wait for their answers."""

    @abstractmethod
    def ask_later(self, item: Item, kind: type[Any], rank: int) -> Callable[[], Any]:
        """Send an item to a member; what this gives waits for the answer."""

    @abstractmethod
    def require_live(self, number: int) -> None:
        """Raise unless there is such an object."""

    @abstractmethod
    def _raise_failure(self) -> None:
        """Raise what ended the session, if something did."""

    @abstractmethod
    def _post(self, item: Item) -> None:
        """Send an item that is not answered to all members."""

    def _prepares(self) -> None:
        """Begin with nothing prepared."""
        self._ahead: AwayAhead | None = None
        self._taken: AwayRun | None = None
        self._blocks = 0
        self._unused: list[int] = []
        self.vault = AwayVault(self)

    @property
    def provider_rank(self) -> int:
        """Rank of the provider.

        Raises:
            MembersError: there is none.
        """
        if self.provider is None:
            raise MembersError("There is no crypto provider in this session who could deal ahead.")
        return len(self.parties)

    def _take_unused(self) -> list[int]:
        unused = self._unused[:]
        del self._unused[: len(unused)]
        return unused

    @contextmanager
    def dealing_ahead(self, limit: int) -> Iterator[Ahead]:
        """As ``Session.dealing_ahead``."""
        self.require_idle()
        provider = self.provider_rank
        self._settle_all()
        self._blocks += 1
        block = AwayBlock(self._blocks, self._unused)
        asked = max(0, min(limit, _MOST))
        self.ask_all(Prepare(self.id, block.number, asked, self._take_unused()), Synced)
        ahead = self._ahead = AwayAhead(self, block)
        whole = False
        try:
            yield ahead
            ahead.drain()
            whole = True
        finally:
            self._ahead = None
            self._waiting.clear()
            if not self.ended:
                self.ask_all(Finish(self.id, whole), Synced, [provider])

    @contextmanager
    def taking(self, run: Run) -> Iterator[None]:
        """As ``Session.taking``."""
        self.require_idle()
        self._settle_all(lasting=False)
        if not isinstance(run, AwayRun):
            raise PreparationError(f"{run!r} was prepared for a session of another kind.")
        self._raise_failure()
        self._post(Use(self.id, run.block, run.number, self._take_unused()))
        self._taken = run
        try:
            yield
            super().sync()
        except BaseException:
            self._taken = None
            if not self.ended:
                self._leave(run)
            raise
        self._taken = None
        self._leave(run)

    def _leave(self, run: AwayRun) -> None:
        """End a run, once everything before is done."""
        self._raise_failure()
        became = self.ask_all(Leave(self.id), Item)[-1]
        if not isinstance(became, Used):
            raise ProtocolError(f"The provider ended a prepared run by {type(became).__name__}.")
        run.end(became)

    def require_idle(self) -> None:
        """Raise unless the session neither prepares nor uses what was prepared."""
        if self._ahead is not None:
            raise PreparationError("A program is being prepared in this session; it cannot prepare or use another.")
        if self._taken is not None:
            raise PreparationError("The session already uses what was prepared for a run. End that run first.")

    def _trace(
        self, ahead: AwayAhead, name: str, inputs: Sequence[int], outputs: int, public: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Let the provider alone do its part of a command."""
        return ahead.command(name, inputs, tuple(new_id() for _ in range(outputs)), public)
