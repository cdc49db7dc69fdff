"""``pointer.share(alice, bob, crypto_provider=cp)`` for data of a worker on another machine.

The owner's worker splits its tensor and sends each party its share over a connection of its own; the driver sees no
share and learns no value. The owner lets go of shares only for sessions in which it is a party itself, or all of whose
parties its policy trusts; with the shares goes the policy that says to whom results may be released, and every party
keeps to it (``mpc/release.py``). What the driver gets is a handle.

1. The driver asks the owner: the method ``contribute``, with the session's document and id. A refusal ends it here, and
   the session goes on.
2. The owner sends each party its ``Deposit``.
3. The driver announces the object to all members: ``Expect``. The parties wait for it; commands go on behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NoReturn

import msgspec
import torch

from sharetorch.mpc.errors import (
    GetNotPermittedError,
    MalformedRequestError,
    MembersError,
    NetworkError,
    UnsupportedOperationError,
)
from sharetorch.mpc.labels import source
from sharetorch.mpc.network.handshake import SessionDocument, session_id
from sharetorch.mpc.network.member import Member, Report
from sharetorch.mpc.policy import OPEN, PRIVATE, Policy
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.ring import Ring, ring_of
from sharetorch.mpc.session import Session, new_id
from sharetorch.mpc.tensor import sharing
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.remote import wire
from sharetorch.remote.access import may_read
from sharetorch.remote.audit import Call
from sharetorch.remote.methods import method
from sharetorch.remote.network.control import SESSION
from sharetorch.remote.objects import Record
from sharetorch.remote.pointer import PointerTensor
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.sessions.hosted import HostedSession, handles
from sharetorch.remote.sessions.messages import Deposit, Expect
from sharetorch.remote.sessions.parts import parts_of

# The driver


def contribute(
    pointer: PointerTensor,
    parties: Sequence[Any],
    crypto_provider: Any,
    field: int | None = None,
    protocol: str | None = None,
    **options: Any,
) -> Any:
    """Let the owner of a remote tensor split it among the parties of a session of the driver's.

    Args:
        pointer: to the tensor.
        parties: workers that get shares.
        crypto_provider: who deals correlated randomness.
        field: as for ``share``.
        protocol: as for ``share``.
        options: of the encoding, as for ``share``.

    Returns:
        A pointer to the handle of the shared tensor; ``get()`` fetches the handle.

    Raises:
        GetNotPermittedError: the owner's policy does not allow it.
        NetworkError: somebody cannot be reached; the session has ended.
    """
    session = sharing.session_for(parties, crypto_provider, field, protocol)
    if not isinstance(session, NetworkedSession):
        raise MembersError("The data is at a worker on another machine; share it with workers that st.connect gave.")
    session.sync()  # all members are there, or the owner is not asked
    number = new_id()
    gradients = options.pop("requires_grad", None)
    try:
        made = pointer.invoke("contribute", session.document.canonical(), session.fresh, number, options)
    except NetworkError as error:
        session.fail(error)  # a part of the shares may be on its way
        raise
    session.expect(pointer.handle.link.worker.id, number, list(pointer.shape))
    return made.requires_grad_() if gradients and made.dtype.is_floating_point else made


# The owner


class AwaySession(Session):
    """A session of another driver's, seen by a worker that has contributed data to it: a name and nothing more."""

    def __init__(self, id: bytes, ring: Ring) -> None:
        super().__init__((), None, ring, SUITES["plaintext"])
        self.id = id

    def _command(self, name: str, inputs: Sequence[int], outputs: int, public: dict[str, Any]) -> tuple[int, ...]:
        """Raises: the driver of the session commands it."""
        self._refuse()

    def distribute(self, values: torch.Tensor) -> int:
        """Raises."""
        self._refuse()

    def reveal_elements(self, number: int) -> Any:
        """Raises."""
        self._refuse()

    def free(self, number: int) -> None:
        """Nothing: the object is the driver's to free."""

    def _refuse(self) -> NoReturn:
        raise UnsupportedOperationError(
            "This tensor is shared in a session of the driver's, and only the driver computes with it. Fetch the "
            "handle first: handle = pointer.get()."
        )


@method("contribute", handle=True)
def _contribute(
    node: Any, record: Record, call: Call, document: bytes, fresh: list[bytes], number: int, options: dict[str, Any]
) -> SharedTensor:  # fmt: skip
    """Split one of this node's tensors among the parties of a session."""
    agreed = msgspec.msgpack.decode(document, type=SessionDocument)
    session = session_id(agreed, fresh)
    parties = [entry.id for entry in agreed.members[: agreed.parties]]
    policy = policy_for(node, record, call, parties)
    unknown = sorted(set(options) - {"precision", "truncation"})
    if unknown or type(record.value) not in (torch.Tensor, torch.nn.Parameter, FixedPrecisionTensor):
        raise MalformedRequestError(
            f"Object {record.number} of {node.id}, a {type(record.value).__name__}, cannot be shared with the options "
            f"{sorted(options)}."
        )
    precision, truncation = options.get("precision"), options.get("truncation", "probabilistic")
    encoding, integers = sharing.encoded(record.value, precision, truncation)
    ring = ring_of(int.from_bytes(agreed.modulus, "big"))
    deposit = Deposit(session, number, list(integers.shape), 0, 0, b"", policy.to_bytes(), frame_of(node, record))
    _send(node, deposit, parties, ring, integers)
    return sharing.handle_of(record.value, Handle(AwaySession(session, ring), number, encoding))


def policy_for(node: Any, record: Record, call: Call, parties: Sequence[str]) -> Policy:
    """What the caller may do with results of an object, if its shares may go to these parties at all.

    Raises:
        GetNotPermittedError: they may not.
    """
    if may_read(record, call.sender):
        return OPEN
    known = node.shelf.get(record.number)
    trusted = known.parties if known is not None else ()
    if node.id not in parties and not set(parties) <= set(trusted):
        names = ", ".join(parties)
        raise GetNotPermittedError(
            f"{node.id} does not share object {record.number} among {names}: together they could open it. It must be "
            f"one of the parties itself, or its policy must trust them: parties = [{names}]."
        )
    if known is not None:
        policy: Policy = known.policy
    else:
        policy = reduce(
            Policy.join, [other.policy for other in node.shelf.values()], PRIVATE if not node.shelf else OPEN
        )
    return policy


def frame_of(node: Any, record: Record) -> list[str]:
    """What names the rows of an object; nothing if it is not a data set as it was loaded."""
    known = node.shelf.get(record.number)
    return [] if known is None else [known.dataset]


def _send(node: Any, deposit: Deposit, parties: Sequence[str], ring: Ring, integers: torch.Tensor) -> None:
    """Split integers and send each party its share, in parts."""
    size = integers.numel() * ring.element_bytes
    ways = [None if name == node.id else node.neighbour(name).connect().control for name in parties]
    for part in parts_of(integers, len(parties), ring):
        for control, contents in zip(ways, part.contents, strict=True):
            item = msgspec.structs.replace(deposit, offset=part.offset, size=size, contents=contents)
            if control is None:
                node.sessions.deposit(item, node.id)
            else:
                control.post(SESSION, wire.encode(item))
    for control in ways:
        if control is not None:
            control.flush()


# The parties


@handles(Expect)
def _expect(session: HostedSession, member: Member, item: Expect) -> None:
    """Wait for an owner's share of an object."""
    session.begin(item.operation)
    contents, label = memoryview(b""), None
    if not member.party.is_provider:
        deposit, contents = session.await_deposit(item)
        frame = [item.owner, *deposit.frame]
        label = source(Policy.from_bytes(deposit.policy), item.shape if deposit.frame else (), frame)
    member.put(item.number, session.elements(member, contents, item.shape))
    session.book.enter(item.number, label)
    session.note(Report(item.operation, "contribute", member.party.rank, 0, {}, {}, 0.0, 0.0))
