"""kill -9 of clients and aggregators in the middle of a round of hidden updates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sharetorch import fl
from sharetorch.fl.aggregation import HiddenAggregator, Limits, TooFewClientsError
from sharetorch.fl.rounds import Federation, RoundSettings, federation
from sharetorch.mpc.errors import NetworkError, ShareTorchError
from sharetorch.remote.network.client import connect
from sharetorch.remote.network.settings import NetworkSettings
from tests.fl.rounds.hidden_net import point
from tests.fl.rounds.tools import vector
from tests.network.ports import free_port
from tests.network.tools import make_keys, until

CLIENTS = ("hf_ann", "hf_ben", "hf_cleo")
AGGREGATORS = ("hf_one", "hf_two")
PROVIDER = "hf_provider"
SETTINGS = {"handshake_seconds": 5.0, "heartbeat_seconds": 0.3, "silence_seconds": 5.0, "connect_seconds": 10.0}
SECONDS = 40.0
"""By when an error must be there: far more than the silence after which a member counts as lost."""


class Group:
    """Worker processes, and connections to them.

    Attributes:
        folder: for files of traps and checkpoints.
        workers: connections, by id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: dict[str, Any] = {}
        self._keys = make_keys(folder / "keys", *CLIENTS, *AGGREGATORS, PROVIDER, "me")
        self._ports = {id: free_port() for id in (*CLIENTS, *AGGREGATORS, PROVIDER)}
        self._pids: dict[str, int] = {}
        self._dirty = set(self._ports)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        self._nursery = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("hidden_processes.py"))], text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, id: str, trap: str = "") -> Path:
        """Start a worker, in place of the one there is, and connect; gives the file that its trap makes."""
        self.stop(id)
        self._dirty.discard(id)
        if trap:
            self._dirty.add(id)
        file = self.folder / f"{id} {trap} {time.monotonic_ns()}"
        spec = {
            "id": id, "keys": str(self._keys), "port": self._ports[id], "settings": SETTINGS,
            "peers": {other: ("127.0.0.1", port) for other, port in self._ports.items() if other != id},
            "data": CLIENTS.index(id) if id in CLIENTS else None, "aggregators": AGGREGATORS,
            "trap": [trap, str(file)] if trap else None,
        }  # fmt: skip
        assert self._nursery.stdin is not None and self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(spec) + "\n")
        self._nursery.stdin.flush()
        self._pids[id] = int(self._nursery.stdout.readline())
        url = f"wss://127.0.0.1:{self._ports[id]}"
        self.workers[id] = connect(url, id, self._keys, settings=NetworkSettings(**SETTINGS))
        return file

    def ready(self, trapped: str = "", step: str = "") -> Path:
        """Let everybody be there, one of them with a trap; gives the trap's file."""
        for id in list(self._dirty - {trapped}):
            self.start(id)
        return self.start(trapped, step) if trapped else self.folder

    def stop(self, id: str) -> None:
        """End a worker and the connection to it."""
        worker = self.workers.pop(id, None)
        if worker is not None:
            worker.close()
            worker.remove_worker_from_local_worker_registry()
            self.kill(id)
            assert until(lambda: not os.path.exists(f"/proc/{self._pids[id]}"), 10)

    def kill(self, id: str) -> None:
        """As kill -9."""
        self._dirty.add(id)
        try:
            os.kill(self._pids[id], signal.SIGKILL)
        except ProcessLookupError:
            return

    def federated(self, rounds: int = 2, **options: Any) -> Federation:
        hidden = HiddenAggregator(
            *(self.workers[id] for id in AGGREGATORS), crypto_provider=self.workers[PROVIDER],
            limits=Limits(4.0, 3, least=2),
        )  # fmt: skip
        config = fl.TrainConfig(point(), F.cross_entropy, batch_size=16, optimizer_args={"lr": 0.5})
        clients = [self.workers[id] for id in CLIENTS]
        return federation(clients, "toy", config, RoundSettings(rounds, least=2), aggregator=hidden, **options)

    def close(self) -> None:
        for id in list(self.workers):
            self.stop(id)
        self._nursery.kill()
        self._nursery.wait(10)
        for pipe in (self._nursery.stdin, self._nursery.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    made = Group(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(group: Group) -> torch.Tensor:
    """The model after two rounds in which nobody dies."""
    group.ready()
    made = group.federated()
    made.fit()
    return vector(made.model)


def killed_when_trapped(group: Group, id: str, file: Path) -> Thread:
    """A thread that kills a worker as soon as its trap has shut."""

    def wait() -> None:
        assert until(file.exists, SECONDS)
        group.kill(id)

    thread = Thread(target=wait)
    thread.start()
    return thread


def without(model: torch.nn.Module, *left_out: str) -> torch.Tensor:
    """The model after a round with the mean of those who are left, from torch alone."""
    from tests.fl.rounds.hidden_processes import data_of

    found = []
    for number, id in enumerate(CLIENTS):
        if id not in left_out:
            mine = torch.nn.Linear(2, 2)
            mine.load_state_dict(model.state_dict())
            x, y = data_of(number)
            F.cross_entropy(mine(x), y).backward()
            torch.optim.SGD(mine.parameters(), lr=0.5).step()
            found.append(vector(mine))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize(
    ("step", "counts"), [("training", False), ("between two uploads", False), ("uploaded", True)]
)
def test_a_round_goes_on_without_a_client_that_was_killed(group: Group, step: str, counts: bool) -> None:
    """A client that has reached both aggregators counts, even if it dies before it could say so."""
    file = group.ready("hf_ben", step)
    made = group.federated()
    expected = without(point(), *(() if counts else ("hf_ben",)))
    made._settings = RoundSettings(1, least=2)
    killer = killed_when_trapped(group, "hf_ben", file)
    (report,) = made.fit()
    killer.join()
    assert report.delivered == (list(CLIENTS) if counts else ["hf_ann", "hf_cleo"])
    assert list(report.left_out) == ([] if counts else ["hf_ben"])
    assert float((vector(made.model) - expected).abs().max()) < 1e-4
    made._settings = RoundSettings(2, least=2)
    assert made.fit()[-1].delivered == ["hf_ann", "hf_cleo"]


@pytest.mark.parametrize("step", ["upload", "settle", "confirm", "rule"])
def test_an_aggregator_that_was_killed_ends_the_round_and_a_new_one_resumes(
    group: Group, undisturbed: torch.Tensor, step: str, tmp_path: Path
) -> None:
    """A typed error in time, nothing opened, the model as before; then a new worker, and what an undisturbed run gives.

    With "upload" the clients cannot deliver; in the other steps the driver itself meets the loss.
    """
    file = group.ready("hf_two", step)
    made = group.federated(checkpoint=tmp_path / "state")
    before = vector(made.model)
    killer = killed_when_trapped(group, "hf_two", file)
    begin = time.monotonic()
    with pytest.raises(ShareTorchError) as caught:
        made.fit()
    killer.join()
    assert time.monotonic() - begin < SECONDS
    assert step == "upload" or isinstance(caught.value, NetworkError)
    assert torch.equal(vector(made.model), before) and not made.reports
    group.ready()
    again = group.federated(checkpoint=tmp_path / "state")
    again.fit()
    assert torch.equal(vector(again.model), undisturbed)


def test_a_run_resumes_from_the_round_before_the_loss(
    group: Group, undisturbed: torch.Tensor, tmp_path: Path
) -> None:
    group.ready()
    first = group.federated(1, checkpoint=tmp_path / "state")
    first.fit()
    group.kill("hf_one")
    with pytest.raises(ShareTorchError):
        group.federated(checkpoint=tmp_path / "state").fit()
    group.ready()
    resumed = group.federated(checkpoint=tmp_path / "state")
    assert [report.round for report in resumed.fit()] == [1, 2]
    assert torch.equal(vector(resumed.model), undisturbed)


def test_too_few_survivors_end_the_round(group: Group) -> None:
    file = group.ready("hf_ben", "training")
    killer = killed_when_trapped(group, "hf_ben", file)
    made = group.federated(1)
    made._settings = RoundSettings(1, least=1)
    group.kill("hf_cleo")
    with pytest.raises(TooFewClientsError, match="1 updates reached all aggregators, and at least 2"):
        made.fit()
    killer.join()
