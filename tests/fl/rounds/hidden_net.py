"""Clients, aggregators and a provider as nodes of this process that are served over real connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from sharetorch import fl
from sharetorch.fl.aggregation import HiddenAggregator, Limits
from sharetorch.fl.rounds import Federation, RoundSettings, federation
from sharetorch.fl.serving import add_dataset
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote import wire
from sharetorch.remote.messages import Request, Train
from sharetorch.remote.network.client import connect
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address
from sharetorch.remote.sessions.hosting import SessionHost
from sharetorch.remote.worker import known_workers
from tests.network.ports import free_port
from tests.network.tools import QUICK, make_keys

CLIENTS = ("hr_ann", "hr_ben", "hr_cleo", "hr_dan")
AGGREGATORS = ("hr_one", "hr_two")
PROVIDER = "hr_provider"
DRIVER = "me"


class Net(NamedTuple):
    """Nodes by id, connections of the driver to them, and what each node was sent, by whom, and answered."""

    nodes: dict[str, NetworkNode]
    workers: dict[str, Any]
    heard: list[tuple[str, str, Any, Any]]

    @property
    def clients(self) -> list[Any]:
        return [self.workers[name] for name in CLIENTS]

    def aggregator(self, rule: Any = "mean", limits: Limits | None = None, **options: Any) -> HiddenAggregator:
        return HiddenAggregator(
            *(self.workers[name] for name in AGGREGATORS), crypto_provider=self.workers[PROVIDER],
            limits=limits or Limits(4.0, len(CLIENTS), 100), rule=rule, **options,
        )  # fmt: skip

    def pieces(self) -> list[tuple[str, str, Any]]:
        """Uploads: aggregator, client, what came with it."""
        said = [(node, sender, request.options["aggregation"]) for node, sender, request, _ in self.heard
                if isinstance(request, Train) and "aggregation" in request.options]  # fmt: skip
        return [(node, sender, given[1:]) for node, sender, given in said if given[0] == "upload"]


def data_of(number: int, items: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Items of a client; different numbers of them."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(items + 4 * number, 2, generator=generator)
    return x, (x.sum(dim=1) > 0).long()


def point(seed: int = 0) -> nn.Module:
    """A model whose values follow from a seed."""
    model = nn.Linear(2, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in model.parameters():
            x.copy_(torch.randn(x.shape, generator=generator))
    return model


def federated(workers: Sequence[Any], aggregator: Any, rounds: int = 2, model: nn.Module | None = None,
              **options: Any) -> Federation:  # fmt: skip
    config = fl.TrainConfig(model or point(), F.cross_entropy, batch_size=64, optimizer_args={"lr": 0.5})
    return federation(workers, "toy", config, RoundSettings(rounds, deadline=60), aggregator=aggregator, **options)


@contextlib.contextmanager
def network(folder: Path, private: bool = False) -> Iterator[Net]:
    """All nodes, each with its data, as the driver reaches them."""
    names = (*CLIENTS, *AGGREGATORS, PROVIDER)
    keys = make_keys(folder, *names, DRIVER)
    ports = {name: free_port() for name in names}
    heard: list[tuple[str, str, Any, Any]] = []
    with contextlib.ExitStack() as stack:
        nodes, workers = {}, {}
        for name in names:
            peers = {other: Address("127.0.0.1", port) for other, port in ports.items() if other != name}
            node = Listening(Identity.load(keys, name), peers, QUICK, private)
            node.heard = heard
            host = SessionHost(node, node.identity, QUICK, {other: tuple(at) for other, at in peers.items()})
            server = WorkerServer(node, node.identity, "127.0.0.1", ports[name], QUICK, host).start()
            stack.callback(server.stop)
            nodes[name] = node
        for number, name in enumerate(CLIENTS):
            add_dataset(nodes[name], fl.BaseDataset(*data_of(number)), "toy")
        try:
            for name in names:
                workers[name] = connect(f"wss://127.0.0.1:{ports[name]}", name, keys, settings=QUICK)
            yield Net(nodes, workers, heard)
        finally:
            for worker in workers.values():
                worker.close()
                worker.remove_worker_from_local_worker_registry()
            assert not set(names) & set(known_workers())


class Listening(NetworkNode):
    """A node that keeps what it is sent and what it answers."""

    heard: list[tuple[str, str, Any, Any]]

    def receive(self, data: bytes, sender: str) -> bytes:
        reply = super().receive(data, sender)
        self.heard.append((self.id, sender, wire.Decoder(Request, self).decode(data), reply))
        return reply
