"""What a member does when its driver prepares a program and uses it.

1. The driver begins a block at all members: ``Prepare``. Each derives secrets for it.
2. What the program asks for goes to the provider alone, which works ahead: ``StandIn`` for each run, ``Placeholder``,
   ``Trace``, then ``Finish``.
3. For a run the driver sends ``Use`` to all, then commands as always. In each of them the provider tells the parties
   first which step the operation takes (``mpc/network/member.py``), without a way to the driver and back. ``Leave``
   ends the run.

Only the driver of the session can ask for any of this, as for every item of a session.
"""

from __future__ import annotations

import torch

from sharetorch.mpc.errors import (
    CorrelationReusedError,
    LimitExceededError,
    MembersError,
    PreparationError,
    ProtocolError,
    UnsupportedOperationError,
)
from sharetorch.mpc.network.member import Member
from sharetorch.remote.sessions.hosted import FORGIVEN, HostedSession, handles, require_allowed
from sharetorch.remote.sessions.messages import (
    Dealt,
    Finish,
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
)

_AHEAD = (PreparationError, UnsupportedOperationError, LimitExceededError)
_FILES = (PreparationError, CorrelationReusedError)
FORGIVEN.update(
    {StandIn: _AHEAD, Placeholder: _AHEAD, Trace: _AHEAD, SavePrepared: _FILES, LoadPrepared: _FILES}
)  # nothing was sent to other members


def _require_provider(member: Member) -> None:
    if not member.party.is_provider:
        raise ProtocolError(f"{member.name} is a party: the provider alone works ahead. The session ends.")


@handles(Prepare)
def _prepare(session: HostedSession, member: Member, item: Prepare) -> Synced:
    if len(session.document.members) == session.document.parties:
        raise MembersError("There is no crypto provider in this session who could deal ahead.")
    session.blocks.forget(item.unused)
    session.blocks.begin(member, item.block, item.limit)
    return Synced()


@handles(StandIn)
def _stand_in(session: HostedSession, member: Member, item: StandIn) -> Synced:
    _require_provider(member)
    tracing = session.blocks.tracing
    with tracing.doing(1 + len(item.numbers)):
        tracing.stand_in(item.run, item.numbers, item.originals)
    return Synced()


@handles(Placeholder)
def _placeholder(session: HostedSession, member: Member, item: Placeholder) -> Synced:
    _require_provider(member)
    tracing = session.blocks.tracing
    with tracing.doing():
        session.arrivals.count(item.shape)
        tracing.put(item.number, torch.empty(tuple(item.shape), dtype=torch.int64, device="meta"))
    return Synced()


@handles(Trace)
def _trace(session: HostedSession, member: Member, item: Trace) -> Dealt:
    _require_provider(member)
    tracing = session.blocks.tracing
    with tracing.doing():
        require_allowed(session, item.name)
        return tracing.command(item.name, item.inputs, item.outputs, item.public, item.forget)


@handles(Finish)
def _finish(session: HostedSession, member: Member, item: Finish) -> Synced:
    _require_provider(member)
    session.blocks.finish(item.keep)
    return Synced()


@handles(Use)
def _use(session: HostedSession, member: Member, item: Use) -> None:
    session.blocks.forget(item.unused)
    session.blocks.use(member, item.block, item.run)


@handles(Leave)
def _leave(session: HostedSession, member: Member, item: Leave) -> Used | Synced:
    return session.blocks.leave(member) or Synced()


@handles(SavePrepared)
def _save(session: HostedSession, member: Member, item: SavePrepared) -> Saved:
    _require_provider(member)
    return Saved(session.blocks.save(member, item.block, item.name, session.ring))


@handles(LoadPrepared)
def _load(session: HostedSession, member: Member, item: LoadPrepared) -> Restored:
    _require_provider(member)
    return Restored(session.blocks.load(item.name, session.ring))
