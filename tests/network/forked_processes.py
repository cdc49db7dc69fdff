"""Workers and drivers as processes that start at once: one process has loaded everything and forks for each.

Run as a program it listens at a socket of this machine. Who connects says in one line of JSON what the new process
shall be; lines of JSON command it from then on. A process ends with its connection.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharetorch.mpc import session as sessions
from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.tensor import sharing
from sharetorch.remote.network import sources
from sharetorch.remote.network.audit_file import AuditFile
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.node import Limits
from sharetorch.remote.sessions.checkpointing import load_checkpoint, save_checkpoint
from sharetorch.remote.sessions.hosting import SessionHost

Reply = dict[str, Any]


class Lines:
    """A connection on which each line is a JSON object."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rw")

    def write(self, **message: Any) -> None:
        """Send an object."""
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()

    def read(self) -> Reply:
        """The next object.

        Raises:
            EOFError: there is none.
        """
        line = self._file.readline()
        if not line:
            raise EOFError
        found: Reply = json.loads(line)
        return found


class WorkerRole:
    """A worker that tells what it did."""

    def __init__(self, spec: Reply) -> None:
        settings, id = NetworkSettings(**spec["settings"]), spec["id"]
        identity = Identity.load(Path(spec["keys"]), id)
        peers = {other: Address(*address) for other, address in spec["peers"].items()}
        self.node = NetworkNode(identity, peers, settings, private=True)
        self.host: Any = SessionHost(self.node, identity, settings, dict(peers))
        self.host.state = Path(spec["state"]) / id
        self.events: list[list[Any]] = []
        WorkerServer(
            self.node, identity, "127.0.0.1", spec["port"], settings, self.host,
            tell=lambda level, event, **facts: self.events.append([level, event, str(facts)]),
        ).start()  # fmt: skip

    def audit(self, lines: Lines, since: int) -> Reply:
        """What was noted after the first so many entries."""
        entries = [[entry.request, entry.outcome] for entry in self.node.audit]
        return {"total": len(entries), "entries": entries[since:], "sessions": len(self.host._sessions)}

    def left(self, lines: Lines) -> Reply:
        """What sessions have left: themselves, and threads."""
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith(("session ", "to "))]
        return {"sessions": len(self.host._sessions), "threads": threads}

    def limit(self, lines: Lines, size: int) -> Reply:
        """Let no file grow beyond so many bytes, as on a full disk; -1 for no limit."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return {}


class AnyWorkerRole:
    """A worker with data, policies and limits, as tests want it."""

    def __init__(self, spec: Reply) -> None:
        settings, id = NetworkSettings(**spec["settings"]), spec["id"]
        identity = Identity.load(Path(spec["keys"]), id)
        peers = {other: Address(*address) for other, address in spec["peers"].items()}
        node = NetworkNode(identity, peers, settings, spec["private"], Limits(**spec["limits"]))
        for values, tags in spec["data"]:
            node.load(torch.tensor(values), tags=tuple(tags))
        if spec["audit"]:
            node.audit.sinks.append(AuditFile(Path(spec["audit"]), id, sync_seconds=None))
        if spec["sources"]:
            node.shelf = sources.put(node, sources.sources_of(spec["sources"]))
        state = Path(spec["state"]) if spec["state"] else None
        host = SessionHost(node, identity, settings, state=state) if spec["sessions"] else None
        WorkerServer(node, identity, "127.0.0.1", spec["port"], settings, host).start()


class DriverRole:
    """A driver that runs programs in phases and tells how they ended."""

    def __init__(self, spec: Reply) -> None:
        settings = NetworkSettings(**spec["settings"])
        identity = Identity.load(Path(spec["keys"]), spec["id"])
        self.workers = [
            NetworkedWorker(Address(*address), id, identity, settings) for id, address in spec["workers"].items()
        ]
        self.tensors: dict[str, Any] = {}

    def connect(self, lines: Lines) -> Reply:
        """Connect to all workers to which there is no connection."""
        for worker in self.workers:
            worker.connect()
        return {}

    def share(self, x: Any) -> Any:
        """Share among the workers, the last of which deals."""
        *parties, provider = self.workers
        return x.share(*parties, crypto_provider=provider)

    def run(self, lines: Lines, program: str) -> Reply:
        """Run a program; a phase begins when the other end says so."""

        def phase() -> None:
            for session in sharing.sessions._open.values():
                if not session.ended:
                    session.sync()
            lines.write(phase=program)
            lines.read()

        try:
            PROGRAMS[program](self.share, phase)
        except Exception as error:
            return self._failed(error)
        return {"done": True}

    def again(self, lines: Lines) -> Reply:
        """Use a tensor of the session that has ended."""
        try:
            (self.tensors["x"] + 1).get()
        except Exception as error:
            return self._failed(error)
        return {"done": True}

    def check(self, lines: Lines) -> Reply:
        """Compute in a new session, and compare with torch."""
        try:
            for worker in self.workers:
                worker.connect()
            x, y = torch.arange(6.0) - 3, torch.tensor([2.0, -1, 0.5, 3, -2, 1])
            a, b = self.share(x), self.share(y)
            found = (a * b + (a > b)).get()
            a.session.close()
        except Exception as error:
            return self._failed(error)
        return {"error": float((found - (x * y + (x > y))).abs().max())}

    def measure(self, lines: Lines, program: str) -> Reply:
        """Seconds that a program takes between inputs and results, and the rounds that were counted."""
        torch.manual_seed(0)
        session = self.share(torch.zeros(1)).session
        run = MEASURED[program](self.share)
        session.sync()
        with session.costs.listen() as heard:
            start = time.perf_counter()
            kept = run()
            session.sync()
            seconds = time.perf_counter() - start
        del kept
        return {"seconds": seconds, "rounds": sum(found.traffic.rounds for found in heard.by_operation.values())}

    def save(self, lines: Lines, value: float) -> Reply:
        """Save a state."""
        try:
            x = self.tensors.get("x")
            if x is None or x.session.ended:
                x = self.tensors["x"] = self.share(torch.arange(500.0))
            save_checkpoint("state", x=x, value=value)
        except Exception as error:
            return self._failed(error)
        return {"value": value}

    def load(self, lines: Lines) -> Reply:
        """The newest state, and what the session it was saved in still computes."""
        try:
            *parties, provider = self.workers
            found = load_checkpoint("state", None, None, *parties, crypto_provider=provider)
            x = self.tensors["x"]
            same = torch.equal(found["x"].get(), torch.arange(500.0)) and torch.equal((x + x).get(), x.get() * 2)
        except Exception as error:
            return self._failed(error)
        return {"value": found["value"], "same": same}

    def _failed(self, error: Exception) -> Reply:
        return {
            "failed": type(error).__name__,
            "typed": isinstance(error, ShareTorchError),
            "member": getattr(error, "member", None),
            "text": str(error),
        }


Share = Callable[[Any], Any]
Phase = Callable[[], None]


def _opening(share: Share, phase: Phase) -> None:
    phase()
    x = share(torch.ones(3))
    (x * x).get()


def _inputs(share: Share, phase: Phase) -> None:
    share(torch.ones(3))
    phase()
    x = share(torch.ones(200, 200))
    x.session.sync()
    (x * x).get()


def _product(share: Share, phase: Phase) -> None:
    x = share(torch.ones(100, 100))
    phase()
    y = x * x
    y.session.sync()
    (y * y).get()


def _comparison(share: Share, phase: Phase) -> None:
    x = share(torch.ones(1000))
    phase()
    (x > 0).get()
    (x > 1).get()


def _training(share: Share, phase: Phase) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    share(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = share(torch.rand(32, 16)), share(torch.rand(32, 4))
    phase()
    for _ in range(2):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        loss.detach().get()


def _get(share: Share, phase: Phase) -> None:
    x = share(torch.ones(100, 100))
    phase()
    x.get()
    (x * x).get()
    (x * x).get()


PROGRAMS: dict[str, Callable[[Share, Phase], None]] = {
    "opening": _opening,
    "inputs": _inputs,
    "product": _product,
    "comparison": _comparison,
    "training": _training,
    "get": _get,
}
"""What a driver does, by the phase in which it is disturbed."""



def _chained(step: Callable[[Any], Any], count: int) -> Callable[[Share], Callable[[], Any]]:
    def prepare(share: Share) -> Callable[[], Any]:
        x = share(torch.ones(4))

        def run() -> Any:
            made = x
            for _ in range(count):
                made = step(made)
            return made

        return run

    return prepare


def _steps(share: Share) -> Callable[[], Any]:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    share(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = share(torch.rand(4, 8)), share(torch.rand(4, 2))

    def run() -> Any:
        for _ in range(3):
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
        return model

    return run


MEASURED = {
    "products": _chained(lambda x: x * x, 10),
    "integer products": _chained(lambda x: (x > 0) * (x > 1), 3),
    "comparisons": _chained(lambda x: x > 0, 5),
    "training": _steps,
}
"""Programs whose time is measured: they prepare their inputs and give what is measured."""

ROLES = {"worker": WorkerRole, "any worker": AnyWorkerRole, "driver": DriverRole}


def _live(sock: socket.socket) -> None:
    """The life of a new process."""
    lines = Lines(sock)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sessions._ids = itertools.count(int.from_bytes(os.urandom(4), "big"))  # not those of the others
    try:
        spec = lines.read()
        role: Any = ROLES[spec["role"]](spec)
        lines.write(pid=os.getpid())
        commands = {name: getattr(role, name) for name in dir(role) if not name.startswith("_")}
        while True:
            order = lines.read()
            lines.write(**commands[order.pop("do")](lines, **order))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        os._exit(0)


def main() -> None:
    """Fork a process for everybody who connects, until the standard input ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen()
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            sock, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _live(sock)
            sock.close()


if __name__ == "__main__":
    main()
