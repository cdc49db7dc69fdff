"""Federated data and training: data stays at the workers, models and batches are used there.

Modules, each using only earlier ones:

    datasets      data sets whose tensors are anywhere
    federate      splitting a data set among workers
    loader        batches at workers
    optims        an optimizer's state for each worker
    training      settings and loops of training and evaluation
    structs       what crosses a wire for training
    graphs        a model and its loss as one graph
    pointers      models and settings at a worker
    train_config  ``TrainConfig``
    fitting       training at a worker, as the driver asks for it
    serving       training at a worker, as the worker does it
    client        training on data sets of one's own
    utils         averages and data to try things on
    aggregation   updates aggregated in MPC, seen by nobody
    rounds        federated learning in rounds
    masking       updates summed by one aggregator, under pairwise masks
    privacy       differential privacy: noise, accounts, budgets
    flower        aggregation inside a Flower federation
    deployment    rounds with real clients over TLS
"""

from sharetorch.fl import rounds, utils
from sharetorch.fl.client import FederatedClient
from sharetorch.fl.datasets import BaseDataset, FederatedDataset
from sharetorch.fl.federate import federate
from sharetorch.fl.fitting import async_fit, evaluate, fit
from sharetorch.fl.loader import FederatedDataLoader
from sharetorch.fl.optims import Optims
from sharetorch.fl.serving import add_dataset, remove_dataset
from sharetorch.fl.train_config import TrainConfig
from sharetorch.fl.utils import federated_avg
from sharetorch.mpc.errors import FederatedDataError, TrainingError

__all__ = [
    "BaseDataset",
    "FederatedClient",
    "FederatedDataError",
    "FederatedDataLoader",
    "FederatedDataset",
    "Optims",
    "TrainConfig",
    "TrainingError",
    "add_dataset",
    "async_fit",
    "evaluate",
    "federate",
    "federated_avg",
    "fit",
    "remove_dataset",
    "rounds",
    "utils",
]
