"""Rounds with workers that are other processes, over TLS: one label group each, and one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch import datasets, fl
from sharetorch.fl.rounds import RoundSettings, accuracy_on, federation
from sharetorch.fl.rounds.simulation import Items, model_for
from tests.network.tools import make_keys

GROUPS = {"north": [0, 1, 2, 3], "south": [4, 5, 6], "west": [7, 8, 9]}

_PROGRAM = """
import sys
import torch
from sharetorch import datasets, fl
from sharetorch.fl import rounds
from sharetorch.remote.network.tutorial_workers import WebsocketServerWorker

id, keys, labels = sys.argv[1], sys.argv[2], [int(label) for label in sys.argv[3]]
data = datasets.load_digits()
mine = torch.isin(data.train_labels, torch.tensor(labels))
worker = WebsocketServerWorker(id=id, port=0, tls=keys, private=False)
worker.add_dataset(fl.BaseDataset(data.train_images[mine], data.train_labels[mine]), key="digits")
print(worker.address[1], flush=True)
worker.start()
"""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[dict[str, tuple[subprocess.Popen[str], st.NetworkedWorker]]]:
    """Worker processes with the digits of their labels, and connections to them."""
    keys = make_keys(tmp_path / "keys", *GROUPS, "me")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = {
        id: subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, id, str(keys), "".join(map(str, labels))],
            stdout=subprocess.PIPE, text=True, env=environment,
        )
        for id, labels in GROUPS.items()
    }  # fmt: skip
    made: dict[str, tuple[subprocess.Popen[str], st.NetworkedWorker]] = {}
    try:
        for id, process in processes.items():
            assert process.stdout is not None
            port = int(process.stdout.readline())
            made[id] = process, st.connect(f"wss://127.0.0.1:{port}", id=id, tls=keys, identity="me")
        yield made
    finally:
        for _, worker in made.values():
            worker.close()
        for process in processes.values():
            process.kill()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


@pytest.mark.slow
def test_clients_with_labels_of_their_own_learn_all_digits(
    group: dict[str, tuple[subprocess.Popen[str], st.NetworkedWorker]],
) -> None:
    """At least nine of ten test items right after 40 rounds; then a client is killed, and rounds go on without it."""
    data = datasets.load_digits()
    model: nn.Module = model_for(Items(data.train_images, data.train_labels, data.test_images, data.test_labels), 0)
    config = fl.TrainConfig(model, F.cross_entropy, batch_size=32, optimizer_args={"lr": 0.1})
    workers = [worker for _, worker in group.values()]
    evaluate = accuracy_on(data.test_images, data.test_labels)
    made = federation(workers, "digits", config, RoundSettings(40), evaluate=evaluate)
    reports = made.fit()
    assert all(report.delivered == list(GROUPS) for report in reports)
    assert reports[-1].metrics["accuracy"] >= 0.9
    links = [st.local_worker.link(worker.id) for worker in workers]
    before = [link.sent for link in links]
    made._settings = RoundSettings(41)
    made.fit()
    assert [link.sent - count for link, count in zip(links, before, strict=True)] == [1, 1, 1]
    process, _ = group["west"]
    process.kill()
    process.wait(10)
    kept = [x.detach().clone() for x in model.parameters()]
    made._settings = RoundSettings(42, deadline=20)
    last = made.fit()[-1]
    assert last.delivered == ["north", "south"] and list(last.left_out) == ["west"]
    assert not all(torch.equal(x, y) for x, y in zip(model.parameters(), kept, strict=True))
