"""Federated learning in rounds: clients train on their own data, and a server combines their updates.

Modules, each using only earlier ones:

    chance        public random numbers from a seed
    first_weights first weights of a model
    partition     items of one data set split among clients, evenly or not
    vectors       a model as one vector
    local         what a client does in a round
    consents      what owners allow of hidden updates
    serving       a round as a worker serves it
    clients       whoever gives an update
    robust        robust rules on plain updates, the reference definitions
    aggregators   from the updates of a round to one
    strategies    server optimizers
    reports       what is known of a round, who is told, when to stop
    checkpoints   a federation's state in a file
    threads       clients at work at the same time
    rounds        the rounds themselves
    evaluation    figures of a global model
    attacks       clients that misbehave, for trials
    simulation    a whole federation in this process
"""

from sharetorch.fl.rounds import partition, robust
from sharetorch.fl.rounds.aggregators import RULES, Aggregator, Collector, Mean, Rule
from sharetorch.fl.rounds.clients import Client, Task, Update, Uploaded, WorkerClient
from sharetorch.fl.rounds.consents import Consent, allow_hidden
from sharetorch.fl.rounds.evaluation import accuracy_on
from sharetorch.fl.rounds.reports import EarlyStop, Listener, ProgressBar, RoundReport, TensorBoard
from sharetorch.fl.rounds.rounds import Federation, RoundSettings, federation
from sharetorch.fl.rounds.strategies import STRATEGIES, FedAdam, FedAvg, FedProx, FedYogi, Strategy

__all__ = [
    "RULES",
    "STRATEGIES",
    "Aggregator",
    "Client",
    "Collector",
    "Consent",
    "EarlyStop",
    "FedAdam",
    "FedAvg",
    "FedProx",
    "FedYogi",
    "Federation",
    "Listener",
    "Mean",
    "ProgressBar",
    "RoundReport",
    "RoundSettings",
    "Rule",
    "Strategy",
    "Task",
    "TensorBoard",
    "Update",
    "Uploaded",
    "WorkerClient",
    "accuracy_on",
    "allow_hidden",
    "federation",
    "partition",
    "robust",
]
