"""A federation of real clients: one server, connections over TLS with certificates, updates that it sees as a sum only.

Clients connect to the server and stay as long as they like. In each round the server sends the global model to those
who are there, they train, and their updates are summed under pairwise masks (``fl/masking``). Modules, each using only
earlier ones:

    errors     what can go wrong
    messages   what crosses the wire besides the messages of masked sums
    roll       who is enrolled
    models     stock models by name, models as graphs, losses
    tasks      what a server asks for, and what a client allows
    training   from a model to an update, at a client
    lines      connections on which typed messages come and go
    storage    what both ends keep in files
    hall       the clients that are connected
    sums       one attempt at a round: training, and a masked sum
    serving    the server
    joining    a client
"""

from sharetorch.fl.deployment.errors import (
    DeploymentError,
    EnrolmentRefusedError,
    MisbehaviourError,
    ReplacedError,
    TaskRefusedError,
    TooFewClientsError,
)
from sharetorch.fl.deployment.joining import Joining, Outcome, join
from sharetorch.fl.deployment.models import Batches
from sharetorch.fl.deployment.serving import Serving, serve
from sharetorch.fl.deployment.tasks import Allowance, Learning

__all__ = [
    "Allowance",
    "Batches",
    "DeploymentError",
    "EnrolmentRefusedError",
    "Joining",
    "Learning",
    "MisbehaviourError",
    "Outcome",
    "ReplacedError",
    "Serving",
    "TaskRefusedError",
    "TooFewClientsError",
    "join",
    "serve",
]
