"""A party of several processes: how shares pass among its ranks, and their sums.

Rank k of every member runs sessions of its own, its lane, with rank k of the others. The processes of one member are
one principal: what one of them knows, all may know, so copying a share from rank to rank tells nobody anything. Shares
are linear: the sum over the lanes of one party's shares is that party's share of the sum of the secrets. Lanes have
keys and streams of their own, so their shares are independent of one another, and the sum is shared as freshly as its
summands. Nothing here crosses from one member to another, and no value is opened. The provider holds no shares; its
ranks only note shapes.

Sessions are joined for one driver only, and only if all have the same members in the same roles, ring and protocol:
shares must not get into a session where others than before could open them. Labels travel with shares. Rows that were
spread over lanes are not counted together: a copy keeps the policy and the fewest rows, without their order, and a
sum the strictest policy and the fewest rows of all lanes.

Before anything of a size that a driver named is sent, the ranks compare what they are about to do; a driver that tells
them different things ends its own sessions. Each group of lanes has a process group of its own, which disturbs no
other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import torch
import torch.distributed
from torch import Tensor

from sharetorch.mpc.errors import (
    ConfigurationError,
    ConnectionLostError,
    DeadlineExceededError,
    HandshakeError,
    LimitExceededError,
    MalformedRequestError,
    ShapeError,
    UnsupportedOperationError,
)
from sharetorch.mpc.labels import Label, mixed
from sharetorch.mpc.network.member import Member, Report
from sharetorch.mpc.policy import Policy
from sharetorch.remote.network.settings import Address, WorkerSettings
from sharetorch.remote.sessions.hosted import HostedSession, handles
from sharetorch.remote.sessions.messages import AllReduce, Broadcast, Join, Pass

START_SECONDS = 120.0
"""For all processes of a worker to start."""

dist: Any = torch.distributed
"""Its types do not name all that it has."""
_AGREE, _DATA, _LABELS = 1, 2, 3
"""Tags of what one rank sends to another."""
_WORDS = 4
_MAX_LABEL_BYTES = 1 << 24
_RING = 1 << 64


class Ranks:
    """The processes of which this worker consists, and its own place among them.

    Args:
        id: of the worker.
        rank: of this process.
        count: how many there are.
        store: where they find each other.

    Attributes:
        id: of the worker.
        rank: of this process.
        count: how many there are.
    """

    def __init__(self, id: str, rank: int, count: int, store: Any) -> None:
        self.id = id
        self.rank = rank
        self.count = count
        self._store = store
        self._all: Any = None

    def meet(self, seconds: float) -> None:
        """Connect to all other processes. The group is kept: who left it early would seem to have died.

        Raises:
            DeadlineExceededError: not all of them came.
            ConnectionLostError: one of them is gone.
        """
        self._all = self.group("start", self.count, seconds, seconds)

    def leave(self) -> None:
        """Close what connects all processes, before this one ends."""
        self._all = None

    def group(self, key: str, size: int, seconds: float, patience: float) -> Any:
        """A process group of the first ranks, which all of them make with the same key.

        Args:
            key: names the group.
            size: how many ranks.
            seconds: for each exchange.
            patience: for all of them to come.

        Raises:
            DeadlineExceededError: not all of them came.
            ConnectionLostError: the store, or one of them, is gone.
        """
        place = dist.PrefixStore(key, self._store)
        with _typed(self.id, f"meeting the other processes of {self.id}", patience):
            place.set(f"here {self.rank}", "")
            place.wait([f"here {rank}" for rank in range(size)], timedelta(seconds=patience))
            return dist.ProcessGroupGloo(place, self.rank, size, timedelta(seconds=seconds))


def count_from(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Rank and number of processes, as ``torchrun`` tells them; 0 and 1 without it.

    Raises:
        ConfigurationError: they are no such numbers.
    """
    try:
        rank, count = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, count = -1, -1
    if not 0 <= rank < count:
        raise ConfigurationError(
            f"RANK = {environment.get('RANK')!r} and WORLD_SIZE = {environment.get('WORLD_SIZE')!r} in the environment "
            "are no rank below a number of processes. Start with torchrun, or unset both."
        )
    return rank, count


def settings_of(settings: WorkerSettings, rank: int) -> WorkerSettings:
    """A worker's settings for its process of that rank: ports are counted from the first, files are its own.

    Raises:
        ConfigurationError: there is no port to count from.
    """
    host, port = settings.listen
    if not port or port + rank > 65535:
        raise ConfigurationError(
            f"listen = {settings.listen} leaves no port for rank {rank}, which is so many above. Name a port."
        )
    if not rank:
        return settings
    return dataclasses.replace(
        settings,
        listen=Address(host, port + rank),
        peers={id: Address(address.host, address.port + rank) for id, address in settings.peers.items()},
        state=None if settings.state is None else settings.state / f"rank-{rank}",
        audit=None if settings.audit is None else settings.audit.with_name(f"{settings.audit.name}.{rank}"),
    )


def join_ranks(id: str, seconds: float = START_SECONDS) -> Ranks:
    """Meet the other processes that ``torchrun`` has started; its environment says where.

    Raises:
        ConfigurationError: the environment is incomplete.
        DeadlineExceededError: not all of them came.
        ConnectionLostError: they cannot be reached.
    """
    rank, count = count_from()
    _stay_on_this_machine(count)
    try:
        with _typed(id, f"meeting the other processes of {id}", seconds):
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds)))
    except ValueError as error:
        raise ConfigurationError(f"The processes of {id} cannot meet: {error} Start them with torchrun.") from error
    ranks = Ranks(id, rank, count, store)
    ranks.meet(seconds)
    return ranks


def _stay_on_this_machine(count: int) -> None:
    """Use the loopback interface if all processes are here and nothing else was asked for."""
    if os.environ.get("LOCAL_WORLD_SIZE") == str(count) and "GLOO_SOCKET_IFNAME" not in os.environ:
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
        if loopback is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = loopback


_hosts: WeakKeyDictionary[Any, Ranks] = WeakKeyDictionary()
_lanes: WeakKeyDictionary[HostedSession, Lane] = WeakKeyDictionary()


def enter(host: Any, ranks: Ranks) -> None:
    """Let a worker's sessions be joined with those of its other processes."""
    _hosts[host] = ranks


@contextmanager
def _typed(id: str, what: str, seconds: float) -> Iterator[None]:
    """Errors of torch.distributed as ours."""
    try:
        yield
    except RuntimeError as error:
        late = "imed out" in str(error) or "imeout" in str(error)
        made: ConnectionLostError | DeadlineExceededError
        if late:
            made = DeadlineExceededError(
                f"{what} took longer than {seconds:g} s. Look whether all processes of {id} run and have the same "
                "driver's commands."
            )
        else:
            made = ConnectionLostError(f"{what} failed: one of them is gone. Restart the processes of {id}.")
        made.member = id
        raise made from error


class Lane:
    """A session's place among the lanes of its party.

    Args:
        session: the session.
        rank: of the process, and number of the lane.
        count: how many lanes there are.
        group: process group of the lanes; None at the provider.

    Attributes:
        rank: number of the lane.
        count: how many lanes there are.
    """

    def __init__(self, session: HostedSession, rank: int, count: int, group: Any) -> None:
        self.rank = rank
        self.count = count
        self._group = group
        self._id = session.host.identity.id
        self._seconds = session.document.round_seconds
        if group is not None:
            threading.Thread(target=_close_after, args=(session, self), name=f"lane {rank}").start()

    def close(self) -> None:
        """Leave the group; ranks that wait for this one notice it."""
        self._group = None

    @property
    def others(self) -> list[int]:
        """All lanes but this one."""
        return [rank for rank in range(self.count) if rank != self.rank]

    def group(self) -> Any:
        """The process group.

        Raises:
            ConnectionLostError: it was left.
        """
        if self._group is None:
            raise ConnectionLostError(f"The lanes of {self._id} are no longer joined.")
        return self._group

    def typed(self, what: str) -> Any:
        """Errors of an exchange as ours."""
        return _typed(self._id, f"{what} among the processes of {self._id}", self._seconds)

    def swap(self, mine: Tensor, others: Sequence[int], tag: int, sizes: Sequence[int]) -> list[Tensor]:
        """Send a tensor to other ranks, and get what they send, of these sizes."""
        group = self.group()
        theirs = [torch.empty(size, dtype=mine.dtype) for size in sizes]
        works = [group.recv([into], rank, tag) for rank, into in zip(others, theirs, strict=True) if into.numel()]
        works += [group.send([mine], rank, tag) for rank in others if mine.numel()]
        for work in works:
            work.wait()
        return theirs

    def agree(self, what: Any, others: Sequence[int], note: int = 0) -> list[int]:
        """See that other ranks are about to do the same. Returns the number that each of them adds.

        Raises:
            HandshakeError: they are not.
        """
        digest = hashlib.sha256(msgspec.msgpack.encode(what)).digest()
        mine = torch.frombuffer(bytearray(digest + note.to_bytes(8, "little")), dtype=torch.int64)
        theirs = self.swap(mine, others, _AGREE, [_WORDS + 1] * len(others))
        if any(not torch.equal(found[:_WORDS], mine[:_WORDS]) for found in theirs):
            raise HandshakeError(
                f"The processes of {self._id} were told different things. Lanes must have the same members in the same "
                "order, and get the same commands."
            )
        return [int(found[_WORDS]) for found in theirs]


def _close_after(session: HostedSession, lane: Lane) -> None:
    """Leave the group when the session has ended; no daemon, for its connections must not end with the interpreter."""
    session.join(threading.TIMEOUT_MAX)
    lane.close()


@handles(Join)
def _join(session: HostedSession, member: Member, item: Join) -> None:
    session.begin(item.operation)
    ranks, start = _hosts.get(session.host), time.perf_counter()
    count, id = len(item.sessions), session.host.identity.id
    if ranks is None or not 2 <= count <= ranks.count:
        raise UnsupportedOperationError(
            f"{id} consists of {1 if ranks is None else ranks.count} processes, and {count} lanes are to be joined. "
            "Start it with torchrun --nproc-per-node."
        )
    own = item.sessions[ranks.rank] if ranks.rank < count else b""
    if session in _lanes or len(set(item.sessions)) != count or own != session.id:
        raise MalformedRequestError(f"Lanes are joined once, and each at its rank; this is rank {ranks.rank} of {id}.")
    if session.ring.modulus != _RING:
        raise UnsupportedOperationError(f"Lanes add up shares modulo 2^64, not {session.ring.modulus}.")
    group = None
    if not member.party.is_provider:
        key = hashlib.sha256(b"".join(item.sessions)).hexdigest()
        group = ranks.group(key, count, session.document.round_seconds, session.host.settings.connect_seconds)
    lane = _lanes[session] = Lane(session, ranks.rank, count, group)
    if group is not None:
        with lane.typed("Joining"):
            lane.agree(["join", *_terms(session)], lane.others)
    _report(session, item.operation, "join", start)


def _terms(session: HostedSession) -> list[Any]:
    """What the sessions of all lanes must have in common."""
    document, driver = session.document, session.control.peer
    members = [[entry.id, entry.public] for entry in document.members]
    return [members, document.parties, session.rank, document.modulus, document.suite, driver.id, driver.public]


@handles(AllReduce)
def _all_reduce(session: HostedSession, member: Member, item: AllReduce) -> None:
    lane, start = _begin(session, item.operation, item.shapes)
    shares = _held(session, member, item.inputs, item.shapes)
    keep = bool(item.outputs)
    if keep:
        _require_new(session, member, item.outputs, item.shapes)
    if member.party.is_provider:
        _put(session, member, item.outputs, item.shapes[: len(item.outputs)], None)
    else:
        own = _labels(session, item.inputs)
        with lane.typed("Adding up"):
            labels = _exchange_labels(lane, ["sum", item.shapes], own, lane.others)
            total = torch.cat([share.reshape(-1) for share in shares])
            lane.group().allreduce([total]).wait()
        if keep:
            _put(session, member, item.outputs, item.shapes, total)
            for place, number in enumerate(item.outputs):
                session.book.enter(number, mixed([row[place] for row in (own, *labels)]))
    _report(session, item.operation, "all_reduce", start)


@handles(Broadcast)
def _broadcast(session: HostedSession, member: Member, item: Broadcast) -> None:
    lane, start = _begin(session, item.operation, item.shapes)
    shares: list[Tensor] = []
    if lane.rank == 0:
        shares = _held(session, member, item.numbers, item.shapes)
    else:
        _require_new(session, member, item.numbers, item.shapes)
    if not member.party.is_provider:
        own = _labels(session, item.numbers) if lane.rank == 0 else []
        with lane.typed("Copying"):
            labels = _exchange_labels(lane, ["broadcast", item.shapes], own, lane.others)
            whole = _flat(shares, item.shapes)
            lane.group().broadcast([whole]).wait()
        if lane.rank:
            _put(session, member, item.numbers, item.shapes, whole)
            _enter(session, item.numbers, labels[0])
    elif lane.rank:
        _put(session, member, item.numbers, item.shapes, None)
    _report(session, item.operation, "broadcast", start)


@handles(Pass)
def _pass(session: HostedSession, member: Member, item: Pass) -> None:
    lane, start = _begin(session, item.operation, item.shapes)
    if item.source == item.target or lane.rank not in (item.source, item.target):
        raise MalformedRequestError(f"Lane {lane.rank} is no end of a way from {item.source} to {item.target}.")
    sending = lane.rank == item.source
    other = item.target if sending else item.source
    if not 0 <= other < lane.count:
        raise MalformedRequestError(f"There is no lane {other}; there are {lane.count}.")
    shares: list[Tensor] = []
    if sending:
        shares = _held(session, member, item.numbers, item.shapes)
    else:
        _require_new(session, member, item.numbers, item.shapes)
    if not member.party.is_provider:
        own = _labels(session, item.numbers) if sending else []
        with lane.typed("Copying"):
            labels = _exchange_labels(lane, ["pass", item.source, item.target, item.shapes], own, [other])
            whole = _flat(shares, item.shapes)
            size = whole.numel()
            (arrived,) = lane.swap(whole[: size if sending else 0], [other], _DATA, [0 if sending else size])
        if not sending:
            _put(session, member, item.numbers, item.shapes, arrived)
            _enter(session, item.numbers, labels[0])
    elif not sending:
        _put(session, member, item.numbers, item.shapes, None)
    _report(session, item.operation, "pass", start)


def _begin(session: HostedSession, operation: int, shapes: Sequence[Sequence[int]]) -> tuple[Lane, float]:
    """The lane of a session that enters its next operation; checks what the operation will need."""
    session.begin(operation)
    lane = _lanes.get(session)
    if lane is None:
        raise MalformedRequestError("These lanes have not been joined.")
    if not shapes or any(size < 0 for shape in shapes for size in shape):
        raise ShapeError(f"Shapes {shapes} for objects of several lanes.")
    sizes, limits = [8 * math.prod(shape) for shape in shapes], session.host.node.limits
    if max(sizes) > limits.object_bytes or sum(sizes) > limits.store_bytes:
        raise LimitExceededError(
            f"{sum(sizes)} bytes from another lane, {max(sizes)} in one object; {session.host.identity.id} takes "
            f"{limits.store_bytes} and {limits.object_bytes}."
        )
    return lane, time.perf_counter()


def _held(
    session: HostedSession, member: Member, numbers: Sequence[int], shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Shares held here, of these shapes; the copy that leaves this process counts as a use of them."""
    session.fresh.difference_update(numbers)
    shares: list[Tensor] = [member.get(number).data for number in numbers]
    found = [list(share.shape) for share in shares]
    if found != list(map(list, shapes)):
        raise ShapeError(f"Objects of shapes {found} where the driver says {list(shapes)}.")
    return shares


def _require_new(
    session: HostedSession, member: Member, numbers: Sequence[int], shapes: Sequence[Sequence[int]]
) -> None:
    member.require_free(numbers)
    if len(numbers) != len(shapes):
        raise MalformedRequestError(f"{len(numbers)} numbers for {len(shapes)} objects.")


def _flat(shares: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Tensor:
    """All shares one after the other; room for them if there are none."""
    if shares:
        return torch.cat([share.reshape(-1) for share in shares])
    return torch.empty(sum(map(math.prod, shapes)), dtype=torch.int64)


def _put(
    session: HostedSession,
    member: Member,
    numbers: Sequence[int],
    shapes: Sequence[Sequence[int]],
    whole: Tensor | None,
) -> None:
    """Hold what arrived, each object in memory of its own; at the provider shapes alone."""
    if whole is None:
        parts = [torch.empty(tuple(shape), dtype=torch.int64, device="meta") for shape in shapes]
    else:
        flat = whole.split([math.prod(shape) for shape in shapes])
        parts = [part.clone().reshape(tuple(shape)) for part, shape in zip(flat, shapes, strict=True)]
    for number, part in zip(numbers, parts, strict=True):
        member.put(number, part)


def _report(session: HostedSession, operation: int, name: str, start: float) -> None:
    seconds = time.perf_counter() - start
    session.note(Report(operation, name, session.rank, 0, {}, {}, seconds, 0.0))


# ------------------------------------------------------------------------------------------------------------- labels

_Kept = tuple[bytes, int, str] | None
"""What of a label goes to another lane: the policy, the rows each element aggregates at least, and what made it."""
_decoder = msgspec.msgpack.Decoder(list[_Kept])


def _labels(session: HostedSession, numbers: Sequence[int]) -> list[Label | None]:
    """Labels of objects without the order of their rows, which is the careful reading of them."""
    return [_careful(session.book.label(number)) for number in numbers]


def _careful(label: Label | None) -> Label | None:
    if label is None or not label.restricted:
        return None
    return Label(label.policy, None, label.least, label.made_by)


def _exchange_labels(
    lane: Lane, what: Any, own: Sequence[Label | None], others: Sequence[int]
) -> list[list[Label | None]]:
    """Agree with other ranks on what to do, and get their objects' labels; no message more if none has any."""
    data = b"" if not any(own) else msgspec.msgpack.encode([_kept(label) for label in own])
    sizes = lane.agree(what, others, len(data))
    if max(sizes) > _MAX_LABEL_BYTES:
        raise LimitExceededError(f"Labels of {max(sizes)} bytes from another lane.")
    mine = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
    arrived = lane.swap(mine, others, _LABELS, sizes)
    shapes = what[-1]
    return [
        [_label(kept) for kept in _decoder.decode(found.numpy().tobytes())] if len(found) else [None] * len(shapes)
        for found in arrived
    ]


def _kept(label: Label | None) -> _Kept:
    return None if label is None else (label.policy.to_bytes(), label.rows, label.made_by)


def _label(kept: _Kept) -> Label | None:
    return None if kept is None else Label(Policy.from_bytes(kept[0]), None, kept[1], kept[2])


def _enter(session: HostedSession, numbers: Sequence[int], labels: Sequence[Label | None]) -> None:
    for number, label in zip(numbers, labels, strict=True):
        session.book.enter(number, label)
