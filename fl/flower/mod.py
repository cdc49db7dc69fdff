"""The client mod: a client's part in the protocols, around what its app does.

``secure_mod`` lets the app train as it would, and hides what it returns. It answers nothing else: a request to train or
evaluate without a protocol is refused, for the answer would show the update. Whatever the app returns besides, its
metrics and number of examples included, stays at the node, and so do the texts of its errors. Queries go to the app as
they are.

The app cannot protect a node from another app: whoever may send apps to a SuperNode gets what they return. Let
SuperNodes run reviewed apps only (``flower-supernode --trusted-entities``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from sharetorch.fl.aggregation import Limits, Terms
from sharetorch.fl.aggregation.invitations import UPLOAD, Invitation
from sharetorch.fl.flower.errors import FlowerError, PlainRequestError
from sharetorch.fl.flower.members import Node
from sharetorch.fl.flower.records import (
    HELLO,
    PIECES,
    RECORD,
    Order,
    PieceOf,
    Uploads,
    Wanted,
    order_in,
    read,
    reply,
    write,
)
from sharetorch.fl.flower.states import PausedClient
from sharetorch.fl.flower.uploading import require_allowed, upload
from sharetorch.fl.flower.vectors import Layout, Vector, clipped
from sharetorch.fl.masking import messages
from sharetorch.fl.masking.errors import OutOfTurnError, RequestRefusedError
from sharetorch.fl.masking.messages import Deliveries, Keys, Opening, Survivors, Unmask
from sharetorch.fl.masking.messages import Message as Masks
from sharetorch.fl.masking.rounds import Round, Step

STATE = "sharetorch-state"
_KINDS: dict[Step, type[Masks]] = {
    Step.SHARE: Keys, Step.MASK: Deliveries, Step.AGREE: Survivors, Step.REVEAL: Unmask,
}  # fmt: skip


class _Own(NamedTuple):
    """What an app returned, which stays at the node."""

    vector: Vector
    weight: int

    def __repr__(self) -> str:
        return f"_Own({len(self.vector)} coordinates)"


class SecureMod:
    """A mod of a ClientApp.

    Args:
        simulated: whether the nodes are those of a simulation, whose keys everybody knows.
    """

    def __init__(self, simulated: bool = False) -> None:
        self._simulated = simulated

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer one message.

        Raises:
            PlainRequestError: it asks for an update, or its figures, in the clear.
            ShareTorchError: it does not hold, or what the app returned does not fit. The client leaves the round.
        """
        if message.metadata.message_type.partition(".")[0] == "query":
            return call_next(message, context)
        order = order_in(message)
        if order is None:
            raise PlainRequestError(
                f"The node was asked to {message.metadata.message_type} in the clear; it answers within a protocol "
                "only. Wrap the strategy: SecureStrategy(FedAvg(...), ...)."
            )
        del message.content[RECORD]
        node = Node.simulated_of(context) if self._simulated else Node.of(context)
        return reply(self._answer(node, order, message, context, call_next), message)

    def _answer(
        self, node: Node, order: Order, message: Message, context: Context, call_next: ClientAppCallable
    ) -> bytes:
        if order.step == HELLO:
            return node.id.encode()
        if order.step == UPLOAD:
            invitation = read(order.message, Invitation)
            require_allowed(node, invitation)
            own = _worked(order, message, context, call_next, invitation.limits[0])
            upload(node, invitation, own.vector, own.weight)
            return b""
        if order.step == PIECES:
            return self._pieces(node, order, message, context, call_next)
        return self._masked(node, order, message, context, call_next)

    def _pieces(
        self, node: Node, order: Order, message: Message, context: Context, call_next: ClientAppCallable
    ) -> bytes:
        """Pieces for aggregators in the process that gets them all: in simulations."""
        if not node.simulated:
            raise RequestRefusedError(
                f"{node.id} was asked for all pieces of its update at once, which together show it. That is for "
                "simulations; name aggregators on machines of their own."
            )
        uploads = read(order.message, Uploads)
        limits, count = Limits(*uploads.limits), len(order.wanted.figures if order.wanted is not None else ())
        own = _worked(order, message, context, call_next, limits.coordinate)
        parts = [own.vector[: len(own.vector) - count], own.vector[len(own.vector) - count :]]
        made = []
        for place, (round, part) in enumerate(zip(uploads.rounds, parts, strict=True)):
            weighted = uploads.weighted and not place
            terms = Terms(round, len(part), uploads.aggregators, limits, weighted)
            pieces = terms.split(torch.from_numpy(part), own.weight if weighted else None) if len(part) else []
            made.append([PieceOf(piece.upload, piece.rank, piece.seeded, piece.contents) for piece in pieces])
        return write(made)

    def _masked(
        self, node: Node, order: Order, message: Message, context: Context, call_next: ClientAppCallable
    ) -> bytes:
        """A step of masks. What was remembered is taken away first, so that an error ends the round here."""
        state = context.state.config_records.get(STATE)
        remembered = b"" if state is None else state["state"]
        context.state[STATE] = ConfigRecord({"state": b""})
        if order.step == Step.ADVERTISE.value:
            client, answer = _begun(node, order.message)
        else:
            step = _step(node, order.step)
            client = _resumed(node, remembered, step)
            client.enter(step)
            document = client.round.document
            value = document.largest / 2**document.fraction_bits
            limit = messages.largest(_KINDS[step], len(document.members), document.degree, document.length)
            received = messages.decode(order.message, _KINDS[step], limit)
            own = _worked(order, message, context, call_next, value) if step is Step.MASK else None
            answer = _stepped(client, received, own)
        saved = b"" if client.step is Step.OVER else client.saved()
        context.state[STATE] = ConfigRecord({"state": saved})
        return messages.encode(answer)


def _step(node: Node, name: str) -> Step:
    for step in _KINDS:
        if step.value == name:
            return step
    raise RequestRefusedError(f"{node.id} knows no step {name[:20]!r}. Install one version everywhere.")


def _stepped(client: PausedClient, received: Masks, own: _Own | None) -> Masks:
    if isinstance(received, Keys):
        return client.share(received)
    if isinstance(received, Deliveries) and own is not None:
        return client.mask(received, own.vector, own.weight)
    if isinstance(received, Survivors):
        return client.agree(received)
    assert isinstance(received, Unmask)
    return client.reveal(received)


def _begun(node: Node, data: bytes) -> tuple[PausedClient, Masks]:
    opening = messages.decode(data, Opening, messages.largest(Opening, 0, 0, 0))
    ids = Round(opening).ids
    node.require_clients(ids)
    enrolment = node.keys.enrolment(ids, node.server)
    client = PausedClient(node.keys.identity(node.id), enrolment, node.ledger, node.trust)
    return client, client.advertise(opening)


def _resumed(node: Node, state: object, step: Step) -> PausedClient:
    if not isinstance(state, bytes) or not state:
        raise OutOfTurnError(
            f"{node.id} was asked to {step.value}, and is in no round: it has begun none, has left it, or its process "
            "has begun anew. It takes part in the next one."
        )
    return PausedClient.resumed(state, node.keys.identity(node.id), node.ledger)


def _worked(
    order: Order, message: Message, context: Context, call_next: ClientAppCallable, value: float
) -> _Own:
    """Let the app do its work; what it returns becomes a vector and a weight."""
    wanted = order.wanted
    if wanted is None:
        raise RequestRefusedError("An order to train does not say what is wanted. Install one version everywhere.")
    received = message.content.array_records.get(wanted.arrays) if wanted.arrays else None
    layout = None if received is None else Layout(received)
    try:
        done = call_next(message, context)
    except Exception as error:
        raise FlowerError(f"The app raised {type(error).__name__}; the log of its node says more.") from error
    if done.has_error():
        raise FlowerError("The app replied with an error; the log of its node says more.")
    figures = next(iter(done.content.metric_records.values()), None)
    parts = [clipped(figures, wanted.figures, value)]
    if wanted.arrays:
        trained = next(iter(done.content.array_records.values()), None)
        if layout is None or trained is None:
            raise FlowerError("A model is wanted, and message or reply holds none. Return the trained ArrayRecord.")
        parts.insert(0, _limited(layout.update(trained), value if wanted.clamp else None))
    return _Own(np.concatenate(parts), _weight(figures, wanted))


def _limited(update: Vector, value: float | None) -> Vector:
    """An update within its limit, or as it is; what is no number is left to be refused."""
    return update if value is None or not np.isfinite(update).all() else np.clip(update, -value, value)


def _weight(figures: MetricRecord | None, wanted: Wanted) -> int:
    if not wanted.weight:
        return 1
    found = None if figures is None else figures.get(wanted.weight)
    if not isinstance(found, (int, float)) or found != round(found):
        raise FlowerError(
            f"The client's reply has no whole number {wanted.weight!r} among its metrics, by which it is weighted. "
            "Return it in the MetricRecord, or use the rule 'mean'."
        )
    return round(found)


secure_mod = SecureMod()
"""For nodes with keys of their own."""

simulated_mod = SecureMod(simulated=True)
"""For simulations: nothing is hidden from whoever runs them."""
