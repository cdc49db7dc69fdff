"""Workers of federated rounds as processes that start at once: this program loads everything once, and forks for each.

It reads a line of JSON for each worker, and writes a line with the number of its process once that listens. A worker
with a "trap" hangs when it comes to a step of a round, and makes a file to say so; then a test kills it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sharetorch as st
from sharetorch.fl.aggregation import collecting
from sharetorch.fl.rounds import RoundSettings, allow_hidden, federation, serving
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.sessions.hosted import HostedSession
from sharetorch.remote.sessions.hosting import SessionHost


def hang(file: str) -> None:
    """Say that the trap has shut, and never come back."""
    Path(file).touch()
    while True:
        time.sleep(60)


def data_of(number: int) -> tuple[Tensor, Tensor]:
    """Items of a client."""
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(number))
    return x, (x.sum(dim=1) > 0).long()


def shut(step: str, file: str) -> None:
    """Set the trap."""
    if step == "training":
        serving.local.train = lambda *_: hang(file)  # type: ignore[assignment, return-value]
    elif step == "between two uploads":
        ask, asked = serving.ask, list[str]()

        def once(link: Any, *said: Any) -> Any:
            if asked:
                hang(file)
            asked.append("")
            return ask(link, *said)

        serving.ask = once
    elif step == "uploaded":
        ask_, seen = serving.ask, list[str]()

        def both(link: Any, *said: Any) -> Any:
            found = ask_(link, *said)
            seen.append("")
            if len(seen) == 2:
                hang(file)
            return found

        serving.ask = both
    elif step == "rule":
        HostedSession.follow = lambda *_: hang(file)  # type: ignore[method-assign]
    else:
        _, count = collecting._STEPS[step]
        collecting._STEPS[step] = (lambda *_: hang(file)), count


def run(spec: dict[str, Any], ready: int) -> None:
    """A worker."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    torch.set_num_threads(1)
    identity, settings = Identity.load(Path(spec["keys"]), spec["id"]), NetworkSettings(**spec["settings"])
    peers = {id: Address(*address) for id, address in spec["peers"].items()}
    node = NetworkNode(identity, peers, settings, private=True)
    sessions = SessionHost(node, identity, settings, dict(spec["peers"]))
    if spec["data"] is not None:
        st.fl.add_dataset(node, st.fl.BaseDataset(*data_of(spec["data"])), "toy")
        allow_hidden(node, "toy", users=["me"], aggregators=spec["aggregators"], least=2)
    if spec["trap"]:
        shut(*spec["trap"])
    WorkerServer(node, identity, "127.0.0.1", spec["port"], settings, sessions).start()
    os.write(ready, f"{os.getpid()}\n".encode())
    while os.getppid() == spec["parent"]:
        time.sleep(0.5)
    os._exit(0)


def warm_up() -> None:
    """Load what the first round would load, once for all."""
    worker = st.VirtualWorker(id="warm")
    st.fl.add_dataset(worker, st.fl.BaseDataset(*data_of(0)), "toy")
    config = st.fl.TrainConfig(torch.nn.Linear(2, 2), torch.nn.functional.cross_entropy, batch_size=16)
    federation([worker], "toy", config, RoundSettings(1)).fit()


def main() -> None:
    """Fork for every line."""
    torch.set_num_threads(1)
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        spec = json.loads(line) | {"parent": os.getpid()}
        if not os.fork():
            try:
                run(spec, sys.stdout.fileno())
            finally:
                os._exit(1)


if __name__ == "__main__":
    main()
