"""A client's vector on its way to aggregators: over connections of the node's own, past Flower.

The node splits its vector, as ``fl.aggregation.uploads`` says, and brings each aggregator its piece over TLS, in which
both prove who they are. It does so only in a round of the aggregators of its own configuration, by a rule that this
allows, with as many clients in the result as it demands. The pieces are bound to all that was said of the round, so
aggregators that were told something else refuse them.
"""

from __future__ import annotations

import torch

from sharetorch.fl.aggregation.invitations import UPLOAD, Invitation, ask
from sharetorch.fl.aggregation.uploads import Piece
from sharetorch.fl.flower.members import PREFIX, Node
from sharetorch.fl.flower.vectors import Vector
from sharetorch.fl.masking.errors import RequestRefusedError
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.worker import local


def require_allowed(node: Node, invitation: Invitation) -> None:
    """Refuse a round that the node's configuration does not allow.

    Raises:
        RequestRefusedError: it does not.
    """
    aggregators, least = invitation.aggregators, invitation.limits[4]
    refused = ""
    if aggregators != list(node.aggregators):
        refused = (
            f"was asked to give shares to {', '.join(aggregators)}, and its own aggregators are "
            f"{', '.join(node.aggregators) or 'nobody'}. Set {PREFIX}aggregators, in the order of the strategy's"
        )
    elif invitation.rule not in node.rules:
        refused = f"allows the rules {', '.join(sorted(node.rules))}, not {invitation.rule!r}. Set {PREFIX}rules"
    elif least < node.trust.fewest:
        refused = (
            f"wants {node.trust.fewest} clients in a result, and the round demands {least}. Raise the strategy's least="
        )
    if refused:
        raise RequestRefusedError(f"{node.id} {refused}, if that is right.")
    if node.id not in invitation.clients:
        raise RequestRefusedError(f"The round is not for {node.id}.")
    node.require_clients(invitation.clients)


def upload(node: Node, invitation: Invitation, vector: Vector, weight: int) -> None:
    """Split a vector, and bring each aggregator its piece.

    Raises:
        EncodingRangeError: a coordinate or the weight is beyond its limit.
        NotFiniteError: NaN or infinity.
        UploadError: the vector does not fit the round, or an aggregator refuses its piece.
        NetworkError: an aggregator cannot be reached.
    """
    terms = invitation.terms()
    bulk = invitation.bulk(node.id)
    pieces = terms.split(torch.from_numpy(vector), weight if terms.weighted else None, bulk=bulk)
    identity = node.keys.identity(node.id)
    ways: list[NetworkedWorker] = []
    try:
        for name, address in node.aggregators.items():
            ways.append(NetworkedWorker(address, name, identity).connect())
        for piece in pieces:
            _bring(ways[piece.rank], piece)
    finally:
        for way in ways:
            way.close()


def _bring(way: NetworkedWorker, piece: Piece) -> None:
    ask(way.link_from(local()), UPLOAD, piece.round, piece.upload, piece.seeded, piece.contents)
