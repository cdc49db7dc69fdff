"""A round as a worker serves it: parameters come with the request, the trained ones go back with the reply.

A round is a ``Train`` whose options hold "round". Before the first one a ``Train`` with "prepare" asks for the number
of items and for the forms of batches that lack a graph, and with "steps" brings these. The worker keeps no state
between rounds: the model that was sent with the ``TrainConfig`` says what form the parameters have, and stays as it
was.

What comes of a round holds the data, so a worker does neither if the caller may not have what comes of the data set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from torch import Tensor

from sharetorch.fl import serving
from sharetorch.fl.rounds import local
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.serving import Job
from sharetorch.fl.structs import ModelState
from sharetorch.mpc.errors import GetNotPermittedError, MalformedRequestError, TrainingError
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Message, Train, Values
from sharetorch.remote.node import Node, handles

ROUND, PREPARE = "round", "prepare"
"""Options of ``Train``."""


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
    """Serve ``Train``: a round, what prepares rounds, or one ``fit``."""
    if ROUND not in request.options and PREPARE not in request.options:
        return serving.serve_training(node, request, call)
    job = serving.job_of(node, request, call)
    if job.hidden or job.askers != (call.sender,):
        raise GetNotPermittedError(
            f"{call.sender} may not have models trained on data set {request.dataset!r} of {node.id}, and an update is "
            "one. Its owner can allow it with add_dataset(..., users=[...])."
        )
    missing = job.missing(job.forms(job.config.settings, True))
    if PREPARE in request.options:
        return Values([len(job.dataset), missing])
    if missing:
        raise TrainingError(f"{node.id} lacks {len(missing)} graphs of this model; prepare the client again.")
    order = msgspec.convert(request.options[ROUND], RoundOrder)
    _check_tensors(order.tensors, job.model.tensors)
    job.narrow()
    done = job.run(lambda: _trained(job, order))
    return Values([done.loss, [], done.tensors])


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
