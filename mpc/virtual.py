"""All members of a session in one process.

One thread steps their coroutines in order of rank through in-memory channels, so runs are deterministic; each
coroutine still sees one member's share only.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from sharetorch.mpc import kernels, operations
from sharetorch.mpc.channel import Mailboxes, MemoryChannels, Message, size_of
from sharetorch.mpc.cost import DRIVER, Span, Timing, Traffic
from sharetorch.mpc.errors import MembersError, ObjectGoneError, PreparationError, ProtocolError
from sharetorch.mpc.party import Party, Receive
from sharetorch.mpc.preparing import OPENING, Ahead, Block, Run, Step, no_values
from sharetorch.mpc.protocols.suite import Suite
from sharetorch.mpc.randomness import SECRET_BYTES, Entropy, PairSecret, fresh_stream, system_entropy
from sharetorch.mpc.ring import Ring
from sharetorch.mpc.session import Member, Session, new_id, object_is_gone
from sharetorch.mpc.share import ArithmeticShare, reconstruct, split
from sharetorch.mpc.timing import PREPARED, Steps, Stopwatch, amounts


class VirtualSession(Session):
    """A session whose members are objects of this process.

    Args:
        parties: as for ``Session``.
        provider: as for ``Session``.
        ring: as for ``Session``.
        suite: as for ``Session``.
        entropy: source of pair secrets; tests give a recorded one.
    """

    def __init__(
        self,
        parties: Sequence[Member],
        provider: Member | None,
        ring: Ring,
        suite: Suite,
        entropy: Entropy = system_entropy,
    ) -> None:
        super().__init__(parties, provider, ring, suite)
        kernels.keep_freed_memory()
        self._entropy = entropy
        self._boxes = Mailboxes()
        self._ranks = self._make_ranks()
        self._operation = 0
        self._blocks = 0
        self._ahead: Ahead | None = None
        self._prepared: Run | None = None

    def _make_ranks(self) -> list[Party]:
        size = len(self._members)
        secrets: list[dict[int, PairSecret]] = [{} for _ in range(size)]
        for low, high in itertools.combinations(range(size), 2):
            shared = self._entropy(SECRET_BYTES)
            secrets[low][high], secrets[high][low] = PairSecret(shared), PairSecret(shared)
        return [
            Party(rank, len(self.parties), self.ring, secrets[rank], MemoryChannels(self._boxes, rank), self.suite)
            for rank in range(size)
        ]

    def _command(self, name: str, inputs: Sequence[int], outputs: int, public: dict[str, Any]) -> tuple[int, ...]:
        if self._ahead is not None:
            return self._trace(self._ahead, name, inputs, outputs, public)
        found = operations.find(name)
        operands = [self._operands(member, inputs) for member in self._members]
        step = None if self._prepared is None else self._take(self._prepared, name, operands[-1], outputs, public)
        stepped = self._ranks if step is None else self._ranks[:-1]
        coroutines = [found(party, *held, **public) for party, held in zip(stepped, operands, strict=False)]
        quiet = name in operations.SILENT and self._prepared is None and not self.costs.wants_timing
        try:
            results = self._finish(name, coroutines) if quiet else self._run(name, coroutines, step)
            if step is not None:
                results.append(step.arrive(operands[-1]))
        except BaseException:
            for share in itertools.chain.from_iterable(operands):
                share.forget_opening()
            raise
        ids = tuple(new_id() for _ in range(outputs))
        for member, result in zip(self._members, results, strict=True):
            parts = (result,) if isinstance(result, ArithmeticShare) else tuple(result)
            member.store.update(zip(ids, parts, strict=True))
        return ids

    def _operands(self, member: Member, inputs: Sequence[int]) -> list[ArithmeticShare]:
        try:
            return [member.store[number] for number in inputs]
        except KeyError as error:
            raise ObjectGoneError(object_is_gone(member.id, error.args[0])) from None

    def _run(self, name: str, coroutines: list[Coroutine[Any, Any, Any]], step: Step | None = None) -> list[Any]:
        """Step the members' coroutines until all are done, and account for it.

        Args:
            name: of the operation.
            coroutines: of all members, or of the parties if the provider's part was prepared.
            step: what was prepared.
        """
        ranks = self._ranks[: len(coroutines)]
        if step is None:
            self._operation += 1
            for party in ranks:
                party.begin(self._operation)
        else:
            self._hand_out(step)
        self._boxes.traffic = Traffic(operations=1)
        watch = Stopwatch(coroutines, len(self.parties)) if self.costs.wants_timing else None
        start = time.perf_counter()
        try:
            results = self._step(coroutines if watch is None else watch.members)
        except BaseException:
            for coroutine in coroutines:
                coroutine.close()
            self._boxes.clear()
            raise
        self._boxes.require_empty()
        traffic = self._boxes.traffic
        traffic.rounds = max(party.clock for party in ranks)
        if self._prepared is not None and step is None and traffic.offline:
            self._prepared.beside += 1
        timing = None if watch is None else watch.read()
        if timing is not None and step is not None:
            timing = replace(timing, dealt={f"{PREPARED}{label}": amount for label, amount in timing.dealt.items()})
        self.costs.note(name, traffic, time.perf_counter() - start, timing)
        return results

    def _finish(self, name: str, coroutines: list[Coroutine[Any, Any, Any]]) -> list[Any]:
        """As ``_run``, for an operation in which nobody sends or draws anything."""
        self._operation += 1
        start = time.perf_counter()
        results: list[Any] = []
        try:
            for coroutine in coroutines:
                try:
                    coroutine.send(None)
                except StopIteration as end:
                    results.append(end.value)
                else:
                    raise ProtocolError(f"{name} awaits a message, though it is listed among those without any.")
        finally:
            for coroutine in coroutines:
                coroutine.close()
        self.costs.note(name, Traffic(operations=1), time.perf_counter() - start, None)
        return results

    def _step(self, coroutines: Sequence[Steps]) -> list[Any]:
        results: list[Any] = [None] * len(coroutines)
        waiting: dict[int, int] = {}
        ready: list[tuple[int, Message | None]] = [(rank, None) for rank in range(len(coroutines))]
        while ready:
            for rank, message in ready:
                try:
                    request: Receive = coroutines[rank].send(message)
                    waiting[rank] = request.sender
                except StopIteration as end:
                    results[rank] = end.value
            ready = []
            for rank, sender in list(waiting.items()):
                arrived = self._boxes.take(sender, rank)
                if arrived is not None:
                    del waiting[rank]
                    ready.append((rank, arrived))
        if waiting:
            raise ProtocolError(f"Members wait for messages nobody sends: {waiting} (receiver: sender).")
        return results

    # Preparing

    @contextmanager
    def dealing_ahead(self, limit: int) -> Iterator[Ahead]:
        """As ``Session.dealing_ahead``."""
        self.require_idle()
        if self.provider is None:
            raise MembersError("There is no crypto provider in this session who could deal ahead.")
        self._settle_all()
        self._blocks += 1
        block = Block([party.block(self._blocks) for party in self._ranks])
        self._ahead = Ahead(self._ranks[-1], block, self.provider.store, limit, self._next, self._note_ahead)
        try:
            yield self._ahead
        finally:
            self._ahead = None
            self._waiting.clear()
            block.finish()

    @contextmanager
    def taking(self, run: Run) -> Iterator[None]:
        """As ``Session.taking``."""
        self.require_idle()
        self._settle_all(lasting=False)
        self._prepared = run
        try:
            yield
            self.sync()
        finally:
            self._prepared = None

    def require_idle(self) -> None:
        """Raise unless the session neither prepares nor uses what was prepared."""
        if self._ahead is not None:
            raise PreparationError("A program is being prepared in this session; it cannot prepare or use another.")
        if self._prepared is not None:
            raise PreparationError("The session already uses what was prepared for a run. End that run first.")

    def _next(self) -> int:
        self._operation += 1
        return self._operation

    def _trace(
        self, ahead: Ahead, name: str, inputs: Sequence[int], outputs: int, public: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Let the provider alone do its part of a command."""
        try:
            return ahead.command(name, inputs, tuple(new_id() for _ in range(outputs)), public)
        except KeyError as error:
            raise ObjectGoneError(object_is_gone(self._members[-1].id, error.args[0])) from None

    def _note_ahead(self, step: Step, begin: float, end: float) -> None:
        """Account for what the provider did ahead."""
        traffic, rank = Traffic(operations=1), self._ranks[-1].rank
        for message in step.messages:
            traffic.count(message.sender, message.receiver, message.size, offline=True)
            self._boxes.show(message)
        span = Span(rank, begin, end, offline=True)
        timing = Timing({}, {rank: end - begin}, {}, 0.0, (span,), amounts(step.messages))
        self.costs.note("prepare", traffic, end - begin, timing)

    def _take(
        self, run: Run, name: str, held: Sequence[ArithmeticShare], outputs: int, public: Mapping[str, Any]
    ) -> Step | None:
        """What was prepared for a command, if anything."""
        step, misfit = run.take(name, held, outputs, public)
        run.reason = run.reason or (misfit if name not in OPENING else "")
        return step

    def _hand_out(self, step: Step) -> None:
        """Give the parties what the provider sent them ahead, once."""
        for party in self._ranks[:-1]:
            party.begin(step.number, step.secrets[party.rank])
        messages, step.messages = step.messages, []
        for message in messages:
            self._boxes.place(message)

    def distribute(self, values: Tensor) -> int:
        """Split integers of the driver into shares and hand one to each party. Returns the object's number."""
        if self._ahead is not None:
            return self._ahead.put(new_id(), self.ring.empty_meta(self.ring.from_integers(values)))
        start = time.perf_counter()
        shares = split(self.ring.from_integers(values), len(self.parties), self.ring, fresh_stream(self._entropy))
        number = new_id()
        self._operation += 1
        traffic = Traffic(operations=1, rounds=1)
        for rank, (member, share) in enumerate(zip(self.parties, shares, strict=True)):
            member.store[number] = ArithmeticShare(share)
            size = size_of(share, self.ring.element_bytes)
            traffic.count(DRIVER, rank, size)
            self._boxes.count(Message(DRIVER, rank, self._operation, "input share", (share,), 1, size))
        if self.provider is not None:
            self.provider.store[number] = ArithmeticShare(self.ring.empty_meta(shares[0]))
        self.costs.note("share", traffic, time.perf_counter() - start)
        return number

    def reveal_elements(self, number: int) -> Any:
        """Ring elements behind an object, opened to the driver from freshly re-randomised shares."""
        if self._ahead is not None:
            raise no_values()
        (fresh,) = self.command("refresh", number)
        try:
            shares = [self._operands(member, (fresh,))[0].data for member in self.parties]
        finally:
            self.free(fresh)
        start = time.perf_counter()
        traffic = Traffic(operations=1, rounds=1)
        for rank, share in enumerate(shares):
            size = size_of(share, self.ring.element_bytes)
            traffic.count(rank, DRIVER, size)
            self._boxes.count(Message(rank, DRIVER, self._operation, "output share", (share,), 1, size))
        opened = reconstruct(shares, self.ring)
        self.costs.note("get", traffic, time.perf_counter() - start)
        return opened

    def free(self, number: int) -> None:
        """Let every member forget an object."""
        if self._ahead is not None:
            self._ahead.free(number)
        for member in self._members:
            member.store.pop(number, None)

    def holds(self, numbers: Iterable[int]) -> bool:
        """Whether all these objects exist."""
        return all(number in member.store for number in numbers for member in self._members)

    @contextmanager
    def record(self) -> Iterator[list[Message]]:
        """Keep a copy of every message sent inside the block, in order: the members' views."""
        self.sync()
        with self._boxes.record() as transcript:
            yield transcript
            self.sync()
