"""Federations in this process, over real connections on this machine, and programs of their own that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.deployment import Allowance, Joining, Learning, Outcome, Serving, join, models, serve
from sharetorch.fl.deployment.hall import Hall, Visitor
from sharetorch.fl.deployment.messages import Train
from sharetorch.fl.deployment.serving import Served
from sharetorch.fl.deployment.training import Trainee
from sharetorch.fl.masking.encoding import encode
from sharetorch.fl.rounds import FedAvg, RoundReport
from sharetorch.fl.rounds.vectors import Layout
from sharetorch.fl.structs import tensors_of
from sharetorch.fl.training import Settings
from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.network.settings import Address, NetworkSettings

T = TypeVar("T")
SECONDS = 240.0
"""A guard against hanging, far beyond what anything here takes."""
LEARNING = Learning("mlp:4,5,3", settings=Settings(4, 2, optimizer_args={"lr": 0.2}), seed=3)
QUICK = NetworkSettings(connect_seconds=30, handshake_seconds=30)


def items(id: str, count: int = 0) -> BaseDataset:
    """The same ones for the same client: 6 to 13 items of three classes."""
    seed = sum(id.encode())
    count = count or 6 + seed % 8
    data = torch.sin(torch.arange(4.0 * count) * (1 + seed % 5)).reshape(count, 4)
    return BaseDataset(data, (data.sum(dim=1) * 2).long() % 3)


@dataclass
class Place:
    """Keys, lists and folders of one federation.

    Attributes:
        folder: for everything.
        events: what server and clients told, by name.
        address: of the server, once it listens.
    """

    folder: Path
    ids: list[str]
    events: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    address: asyncio.Future[Address] | None = None

    @classmethod
    def made(cls, folder: Path, *ids: str) -> Place:
        """A new one, all of whose clients are enrolled."""
        found = cls(folder, list(ids))
        certificates.make_authority(found.keys)
        for id in ("server", *ids):
            certificates.issue(found.keys, id)
        found.enrol(*ids)
        return found

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def roll(self) -> Path:
        return self.folder / "clients.txt"

    def enrol(self, *ids: str) -> None:
        """Let the list of clients be this one."""
        self.roll.write_text("# clients\n" + "".join(f"{id}\n" for id in ids))

    def identity(self, id: str) -> Identity:
        return Identity.load(self.keys, id)

    def tell(self, who: str) -> Callable[..., None]:
        """Remember what is told."""
        told = self.events.setdefault(who, [])

        def tell(level: str, event: str, **facts: Any) -> None:
            told.append((event, facts))

        return tell

    def told(self, who: str, event: str) -> list[dict[str, Any]]:
        """What was told of one kind of event."""
        return [facts for name, facts in self.events.get(who, []) if name == event]

    async def serve(self, learning: Learning = LEARNING, settings: Serving | None = None, **options: Any) -> Served:
        """Run the server; ``where`` gives its address."""
        here = self._found()
        given = {"network": QUICK, "tell": self.tell("server"), "opened": here.set_result, **options}
        try:
            return await serve(
                learning, settings or serving(), self.identity("server"), self.keys / "ca.crt", self.roll,
                self.folder / "server", **given,
            )  # fmt: skip
        finally:
            self.address = None

    def _found(self) -> asyncio.Future[Address]:
        if self.address is None:
            self.address = asyncio.get_running_loop().create_future()
        return self.address

    async def join(self, id: str, allowance: Allowance | None = None, **options: Any) -> Outcome:
        """Run a client, once the server listens."""
        address = options.pop("server", None) or str(await self.where())
        data = options.pop("data", None) or items(id)
        given = {"server_id": "server", "authority": self.keys / "ca.crt", "state": self.folder / f"state of {id}"}
        identity = options.pop("identity", None) or self.identity(id)
        joining = Joining(server=address, **{"patience": SECONDS, **given, **options})
        return await join(joining, identity, data, allowance, QUICK, self.tell(id))

    async def where(self) -> Address:
        """Where the server listens."""
        return await asyncio.shield(self._found())


def all_first(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let no round begin before so many clients have been there at once."""
    whole, met = Hall.ready, list[int]()

    def ready(self: Hall) -> list[Visitor]:
        found = whole(self)
        met.extend([1] * (len(found) >= count))
        return found if met else []

    monkeypatch.setattr(Hall, "ready", ready)


def serving(rounds: int = 1, least: int = 3, **options: Any) -> Serving:
    """Rounds that begin as soon as enough clients are there."""
    given: dict[str, Any] = {"pause": 0.0, "linger": 1.0, "deadline": SECONDS, "step_seconds": SECONDS}
    return Serving(rounds, least, **{**given, **options})


def run(work: Awaitable[T]) -> T:
    """Run something that ends."""

    async def bounded() -> T:
        async with asyncio.timeout(SECONDS):
            return await work

    return asyncio.run(bounded())


async def together(server: Awaitable[Served], *clients: Awaitable[Outcome]) -> tuple[Any, list[Any]]:
    """What server and clients give or raise. When the server is over, clients have a little time to notice."""
    rest = [asyncio.ensure_future(client) for client in clients]
    try:
        (served,) = await asyncio.gather(server, return_exceptions=True)
        if isinstance(served, BaseException):
            for one in rest:
                one.cancel()
        return served, await asyncio.gather(*rest, return_exceptions=True)
    finally:
        for one in rest:
            one.cancel()


def federated(place: Place, *ids: str, learning: Learning = LEARNING, settings: Serving | None = None) -> Any:
    """A federation whose clients are all honest: what its server gives, and they."""
    clients = [place.join(id) for id in ids or place.ids]
    return run(together(place.serve(learning, settings), *clients))


def expected(reports: Sequence[RoundReport], learning: Learning = LEARNING) -> nn.Module:
    """The model after rounds in which these clients' updates were summed, from Python's integers."""
    model = learning.begun()
    layout, limits, task = Layout(model), learning.limits, learning.task(model, FedAvg())
    for report in reports:
        total, weight = [0] * layout.size, 0
        order = Train(report.round, 1, models.packed(model))
        for id in report.delivered:
            result = Trainee(task, Allowance(), items(id), id).train(order)
            words = encode(result.vector, result.weight, limits.fraction_bits, limits.largest, limits.weight)
            total = [one + int(other) for one, other in zip(total, words[:-2].view("i8"), strict=True)]
            weight += result.weight
        mean = torch.tensor(total, dtype=torch.float64) / (weight * 2.0**limits.fraction_bits)
        layout.load(model, layout.of(model) - (-1.0) * mean)
    return model


def values(model: nn.Module) -> list[Tensor]:
    """A model's tensors."""
    return [x.detach().clone() for x in tensors_of(model)]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same values, to the last bit."""
    return all(torch.equal(x, y) for x, y in zip(tensors_of(one), tensors_of(other), strict=True))


# ----------------------------------------------------------------------------------------------------------- programs

_PROGRAM = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from sharetorch.cli import main

def cut(owner, name, turn):
    whole, calls = vars(owner)[name], []
    def killed(*args, **kwargs):
        calls.append(None)
        if len(calls) == turn:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args, **kwargs)
    setattr(owner, name, killed)

{cut}
sys.exit(main(sys.argv[1:]))
"""
"""The command line, in a process that kills itself when a method is called for the n-th time."""


class Program:
    """A process with the command line.

    Args:
        words: of the command.
        cut: a line that says where it kills itself; never if not given.
    """

    def __init__(self, words: Sequence[object], cut: str = "") -> None:
        self.lines: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM.format(cut=cut), *map(str, words), "--json", "--log-level", "debug"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._readers = [threading.Thread(target=self._read, args=(stream,), daemon=True) for stream in self._streams()]
        for reader in self._readers:
            reader.start()

    def _streams(self) -> Iterable[Any]:
        return self.process.stdout, self.process.stderr

    def _read(self, stream: Any) -> None:
        for line in stream:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"text": line})
            if self.lines[-1].get("event") == "ready":
                self._ready.set()

    def told(self, event: str) -> list[Mapping[str, Any]]:
        """Events of one kind in its log."""
        return [line for line in self.lines if line.get("event") == event]

    async def address(self) -> str:
        """Where it listens."""
        assert await asyncio.to_thread(self._ready.wait, SECONDS), self.lines
        return str(self.told("ready")[0]["address"])

    async def ended(self) -> int:
        """Its exit status."""
        code = await asyncio.to_thread(self.process.wait, SECONDS)
        for reader in self._readers:
            await asyncio.to_thread(reader.join, SECONDS)
        return code

    def close(self) -> None:
        """Let nothing be left of it."""
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(10)
        for stream in self._streams():
            stream.close()
