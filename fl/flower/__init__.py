"""Hidden updates in a federation run by Flower (``flwr``): a strategy for its ServerApp, a mod for its ClientApp.

Modules, each using only earlier ones:

    errors       what can go wrong
    logs         Flower's own log
    vectors      models and figures as one vector
    members      who a node is
    states       a client's part in a round of masks, between two messages
    records      what ServerApp and mod say to each other
    uploading    a vector on its way to aggregators
    mod          the client mod
    grids        orders to nodes, and their answers
    results      what a round gives, and who runs it
    masked       masked sums: the ServerApp is the single aggregator
    shared       rules on shares of several aggregators
    strategy     the strategy
"""

from sharetorch.mpc.errors import UnsupportedOperationError

try:
    import flwr.serverapp  # noqa: F401
except ImportError as error:
    raise UnsupportedOperationError(
        "sharetorch.fl.flower needs Flower: pip install 'sharetorch[flower]'."
    ) from error

from sharetorch.fl.flower.errors import FlowerError, LostRoundError, PlainRequestError
from sharetorch.fl.flower.members import SIMULATED
from sharetorch.fl.flower.mod import SecureMod, secure_mod, simulated_mod
from sharetorch.fl.flower.shared import Aggregators, InServerApp
from sharetorch.fl.flower.strategy import SecureStrategy
from sharetorch.fl.masking import Limits, Trust

__all__ = [
    "Aggregators",
    "FlowerError",
    "InServerApp",
    "Limits",
    "LostRoundError",
    "PlainRequestError",
    "SIMULATED",
    "SecureMod",
    "SecureStrategy",
    "Trust",
    "secure_mod",
    "simulated_mod",
]
