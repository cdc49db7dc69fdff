"""The fault matrix: whatever happens to a member at whatever moment, the others end the session and serve the next.

A member is killed, hangs, or its connections break in one of three ways, while a session is being opened, while inputs
are being shared, in a product, a comparison, a step of training, and while a result is being fetched: at a certain byte
of its connections, so that every run is the same. Every survivor must end the session within its deadlines, by one
typed error; nothing is opened after that; nothing is left of the session; and the next one computes what it should.

A driver has no disk in a session, so in the place of a full disk at the driver stands one at all members.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sharetorch.mpc import errors
from sharetorch.remote.sessions.checkpointing import KEPT
from tests.network.faults import DROP, RESET, TRICKLE, Net
from tests.network.tools import make_keys, until

pytestmark = pytest.mark.slow

IDS = ("alice", "bob", "crypto_provider")
SETTINGS = {
    "handshake_seconds": 2.0, "heartbeat_seconds": 0.3, "silence_seconds": 1.5, "connect_seconds": 2.0,
    "round_seconds": 3.0, "request_seconds": 4.0,
}  # fmt: skip
DEADLINE = 4.0
"""The longest of the waits above, 2 x ``connect_seconds`` for the other members among them."""
GRACE = 5.0
UNIT = 2.0**-16

FAULTS = ("kill", "hang", "half-open", "reset", "trickle")
CUTS = {"opening": 3000, "inputs": 100_000, "product": 50_000, "comparison": 20_000, "training": 20_000, "get": 20_000}
"""In what a member is disturbed, and after how many bytes of it."""
VICTIMS = {"party": "alice", "provider": "crypto_provider", "driver": "driver"}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Net]]:
    """Room for the workers and the driver of all tests of this file."""
    made: list[Net] = []
    yield made
    for net in made:
        net.close()


@pytest.fixture
def net(nets: list[Net], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Workers and a driver: those of the test before, unless it failed. Who is killed is started again."""
    if not nets or nets[-1].dirty:
        keys = make_keys(tmp_path_factory.mktemp("keys"), *IDS, "me")
        nets.append(Net(tmp_path_factory.mktemp("faults"), keys, SETTINGS, IDS))
    nets[-1].dirty = True
    yield nets[-1]


def _strike(net: Net, victim: str, fault: str) -> None:
    """Let a fault happen."""
    process = net.member(victim)
    if fault == "kill":
        process.kill()
    elif fault == "hang":
        process.stop()
    else:
        for wire in net.wires(victim):
            wire.disturb({"half-open": DROP, "reset": RESET, "trickle": TRICKLE}[fault])


def _light(net: Net, victim: str, fault: str, cut: str) -> Any:
    """Let a fault happen after so many bytes: of the driver's connection for inputs and results, else of the peers'."""
    size = CUTS[cut]

    def action() -> None:
        _strike(net, victim, fault)

    if cut in ("inputs", "get"):
        watched = net.controls[victim if victim == "alice" else "alice"]
        return net.light([watched], size, action, forth=cut == "inputs", back=cut == "get")
    return net.light(net.peers(victim), size, action)


def _endings(net: Net, id: str, since: int) -> list[list[str]]:
    """How sessions of a worker ended after the first so many entries of its audit."""
    entries = net.workers[id].ask("audit", since=since)["entries"]
    return [entry for entry in entries if entry[0].startswith(("session ended", "session closed"))]


def _outputs_after_the_end(net: Net, id: str, since: int) -> list[list[str]]:
    """Results a worker let out after it had ended the session."""
    entries = net.workers[id].ask("audit", since=since)["entries"]
    end = next(place for place, entry in enumerate(entries) if entry[0].startswith(("session ended", "session closed")))
    return [entry for entry in entries[end:] if entry == ["session output", "done"]]


def _ended(net: Net, id: str, since: int, deadline: float) -> list[list[str]]:
    """Wait until a worker has ended its session."""
    while True:
        found = _endings(net, id, since)
        left = net.workers[id].ask("left")
        if (found and not left["sessions"] and not left["threads"]) or time.monotonic() > deadline:
            assert not left["sessions"], f"{id} still has a session"
            assert not left["threads"], f"{id} still has {left['threads']}"
            return found
        time.sleep(0.02)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("role", VICTIMS)
def test_every_survivor_ends_and_serves_the_next(net: Net, role: str, fault: str, cut: str) -> None:
    victim = VICTIMS[role]
    net.driver.ask("connect")
    since = {id: worker.ask("audit", since=0)["total"] for id, worker in net.workers.items()}

    net.driver.order("run", program=cut)
    assert net.driver.answer() == {"phase": cut}
    fuse = _light(net, victim, fault, cut)
    net.driver.go_on()
    assert fuse.burnt.wait(10), "the phase ended before the fault"
    deadline = time.monotonic() + DEADLINE + GRACE

    if role != "driver":
        _check_driver(net, victim, deadline)
    alive = [id for id in IDS if not (id == victim and fault in ("kill", "hang"))]
    for id in alive:
        found = _ended(net, id, since[id], deadline)
        assert len(found) == 1, found
        assert found[0][1] == "done" or issubclass(getattr(errors, found[0][1]), errors.ShareTorchError), found
        assert not _outputs_after_the_end(net, id, since[id]), f"{id} opened something"
    net.mend()
    if role == "driver" and fault != "kill":
        assert net.driver.answer()["typed"]
    _check_next(net)


def _check_driver(net: Net, victim: str, deadline: float) -> None:
    """The driver raises one typed error, at the first use and at every other one."""
    told = net.driver.answer()
    assert time.monotonic() < deadline
    assert told.get("typed"), told
    assert issubclass(getattr(errors, told["failed"]), errors.NetworkError), told
    assert told["member"] == victim, told


def _check_next(net: Net) -> None:
    """The same workers compute in a new session."""
    deadline = time.monotonic() + DEADLINE + GRACE
    while "error" not in (told := net.driver.ask("check")):
        assert time.monotonic() < deadline, told
    assert told["error"] <= 4 * UNIT
    for id, worker in net.workers.items():
        assert until(lambda worker=worker: not worker.ask("left")["sessions"]), f"{id} still has a session"
    net.dirty = False


FULL = {"no byte": 0.0, "one byte": 0.001, "a quarter": 0.25, "half": 0.5, "all but one byte": 1.0}
"""How much of a checkpoint the disk still takes."""


@pytest.mark.parametrize("cut", FULL)
@pytest.mark.parametrize("role", VICTIMS)
def test_a_full_disk_at_a_checkpoint(net: Net, role: str, cut: str) -> None:
    """Nothing was sent to others: the save fails by one error, what was saved before is there, the session goes on."""
    victims = IDS if role == "driver" else (VICTIMS[role],)
    net.driver.ask("connect")
    assert net.driver.ask("save", value=1.0) == {"value": 1.0}
    since = {id: worker.ask("audit", since=0)["total"] for id, worker in net.workers.items()}
    for id in victims:
        size = max(path.stat().st_size for path in net.checkpoints(id))
        net.workers[id].ask("limit", size=min(size - 1, int(size * FULL[cut] + 0.999)))
    told = net.driver.ask("save", value=2.0)
    for id in victims:
        net.workers[id].ask("limit", size=-1)
    assert told["failed"] == "CheckpointError" and any(id in told["text"] for id in victims), told
    assert net.driver.ask("load") == {"value": 1.0, "same": True}
    assert net.driver.ask("save", value=3.0) == {"value": 3.0}
    assert net.driver.ask("load") == {"value": 3.0, "same": True}
    for id in IDS:
        assert not _endings(net, id, since[id])
        refused = [entry for entry in net.workers[id].ask("audit", since=since[id])["entries"] if entry[1] != "done"]
        assert refused == ([["session save", "CheckpointError"]] if id in victims else [])
        assert len(net.checkpoints(id)) == KEPT
    net.dirty = False
