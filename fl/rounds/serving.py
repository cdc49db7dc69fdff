"""A round as a worker serves it: parameters come with the request, the trained ones go back with the reply.

A round is a ``Train`` whose options hold "round". Before the first one a ``Train`` with "prepare" asks for the number
of items and for the forms of batches that lack a graph, and with "steps" brings these. The worker keeps no state
between rounds: the model that was sent with the ``TrainConfig`` says what form the parameters have, and stays as it
was.

What comes of a round holds the data, so a worker does neither if the caller may not have what comes of the data set.

In a round of hidden updates the ``Train`` holds "invitation", too: the worker sends its update, as shares, straight to
the aggregators, and what comes back says that this is done and no more. ``consents.py`` says when it does so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from torch import Tensor

from sharetorch.fl import serving
from sharetorch.fl.aggregation import collecting
from sharetorch.fl.aggregation.invitations import AGGREGATION, UPLOAD, ask, invitation_of
from sharetorch.fl.rounds import local
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.rounds.consents import consent_of, take_from_shelf
from sharetorch.fl.rounds.vectors import flat
from sharetorch.fl.serving import Job
from sharetorch.fl.structs import ModelState
from sharetorch.mpc.errors import GetNotPermittedError, MalformedRequestError, TrainingError
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Message, Train, Values
from sharetorch.remote.node import Node, handles

ROUND, PREPARE, INVITATION = "round", "prepare", "invitation"
"""Options of ``Train``."""
HIDDEN = "hidden"
"""Value of "prepare" for a client whose updates are to be hidden."""


UPLOADED = "uploaded"
"""What a client answers whose update is with the aggregators."""


class RoundOrder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a client is to do in a round.

    Attributes:
        tensors: of the model, parameters then buffers.
        words: for which the order of items is drawn: seed, round, client.
        proximal: see ``local.train``.
    """

    tensors: list[Any]
    words: tuple[int, int, str]
    proximal: float = 0.0


class Trained(NamedTuple):
    """What a round gives.

    Attributes:
        loss: mean over all items seen.
        tensors: of the model after the round.
    """

    loss: float
    tensors: list[Tensor]


@handles(Train)
def serve_train(node: Node, request: Train, call: Call) -> Message:
    """Serve ``Train``: a round, what prepares rounds, an aggregator's part in one, or one ``fit``."""
    options = request.options
    if AGGREGATION in options:
        return collecting.serve(node, options, call)
    if ROUND not in options and PREPARE not in options:
        return serving.serve_training(node, request, call)
    take_from_shelf(node, request.dataset, call.sender)
    job = serving.job_of(node, request, call)
    if PREPARE in options:
        return _prepare(job, request, call)
    if INVITATION in options:
        return _take_part(job, request, call)
    _require_readable(job, request, call)
    done = job.run(lambda: _trained(job, _order(job, options)))
    return Values([done.loss, [], done.tensors])


def _require_readable(job: Job, request: Train, call: Call) -> None:
    """Refuse a caller who may not have what comes of the data.

    Raises:
        GetNotPermittedError: it may not.
    """
    if job.hidden or job.askers != (call.sender,):
        raise GetNotPermittedError(
            f"{call.sender} may not have models trained on data set {request.dataset!r} of {job.node.id}, and an "
            "update is one. Its owner can allow it with add_dataset(..., users=[...]), or hidden updates with "
            "allow_hidden(...)."
        )


def _prepare(job: Job, request: Train, call: Call) -> Values:
    """Say how many items there are, if not for hidden updates only, and which graphs are missing."""
    consent = consent_of(job.node, request.dataset)
    hidden = request.options[PREPARE] == HIDDEN
    if not hidden or consent is None:
        _require_readable(job, request, call)
    else:
        consent.check_user(job.node.id, call.sender)
    return Values([0 if hidden else len(job.dataset), job.missing(job.forms(job.config.settings, True))])


def _order(job: Job, options: dict[str, Any]) -> RoundOrder:
    """What is to be done in a round, checked; model and settings become as secret as the data."""
    missing = job.missing(job.forms(job.config.settings, True))
    if missing:
        raise TrainingError(f"{job.node.id} lacks {len(missing)} graphs of this model; prepare the client again.")
    order = msgspec.convert(options[ROUND], RoundOrder)
    _check_tensors(order.tensors, job.model.tensors)
    job.narrow()
    return order


def _take_part(job: Job, request: Train, call: Call) -> Values:
    """Train, and send shares of the update to the aggregators; nothing of it is kept, or said to the caller."""
    node, invitation = job.node, invitation_of(request.options[INVITATION])
    consent, terms = consent_of(node, request.dataset), invitation.terms()
    if consent is None:
        _require_readable(job, request, call)
    else:
        consent.check(node.id, call.sender, invitation)
    order = _order(job, request.options)
    before = flat(order.tensors)
    if node.id not in invitation.clients or len(before) != terms.dimension:
        raise MalformedRequestError(
            f"The round is not for {node.id}, or for a model of {terms.dimension} coordinates where this one has "
            f"{len(before)}."
        )
    after = flat(job.run(lambda: _trained(job, order)).tensors)
    limits = terms.limits
    weight = min(len(job.dataset), limits.weight) if terms.weighted else None
    update = (after - before).clamp(-limits.coordinate, limits.coordinate)
    for piece in terms.split(update, weight, bulk=invitation.bulk(node.id)):
        link = node.link(invitation.aggregators[piece.rank])
        ask(link, UPLOAD, piece.round, piece.upload, piece.seeded, piece.contents)
    return Values([UPLOADED, []])


def _check_tensors(tensors: list[Any], known: list[Tensor]) -> None:
    if len(tensors) != len(known) or not all(
        type(x) is Tensor and x.shape == y.shape and x.dtype == y.dtype for x, y in zip(tensors, known, strict=True)
    ):
        raise MalformedRequestError("The tensors of a round have the number, shapes and dtypes of the model's.")


def _trained(job: Job, order: RoundOrder) -> Trained:
    trained = [
        x.requires_grad_() for x, marked in zip(order.tensors, job.model.trainable, strict=True) if marked
    ]
    if not trained:
        raise TrainingError("The model has no parameter that requires a gradient: nothing would be trained.")
    own = job._replace(model=ModelState(order.tensors, job.model.trainable))
    chance = Chance(*order.words)
    loss = local.train(own.step(True), trained, job.dataset, job.config.settings, chance, order.proximal)
    return Trained(loss, [x.detach() for x in order.tensors])
