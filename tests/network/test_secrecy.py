"""Secrets stay where they are: not in logs, audit files, errors or texts of objects, and not at the driver.

Secrets are numbers that occur nowhere else. Whatever is written while they are shared, computed with, attacked and
fetched is searched for them, in every way a number is written. And everything that reaches the driver is recorded: a
share comes as the answer to ``Output`` only, fresh and uniform.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sharetorch.cli import logs
from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote import wire
from sharetorch.remote.network.audit_file import AuditFile
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.sessions import hosted
from sharetorch.remote.sessions.hosting import SessionHost
from sharetorch.remote.sessions.messages import Answer, Ended, Notice, Output, Progress, Refused, Share, Sync
from tests.mpc.views import require_uniform
from tests.network.test_hostile_drivers import COMMANDS, LIMITS, MEMBERS, SETTINGS, Group, Rogue
from tests.network.tools import until

SECRETS = (48123.578125, -31337.140625, 27182.8125)
"""Exact in 16 bits of fraction, so each has one encoding."""


def forms(value: float) -> list[bytes]:
    """Every way in which a secret could be written."""
    encoded = int(value * 65536)
    word = encoded % (1 << 64)
    texts = [repr(value), f"{abs(value):.3f}", str(abs(encoded)), str(word), f"{word:x}"]
    raw = [word.to_bytes(8, "little"), word.to_bytes(8, "big"), struct.pack("<d", value), struct.pack("<f", value)]
    return [text.encode() for text in texts] + raw + [part.hex().encode() for part in raw]


def require_absent(written: bytes, secrets: list[bytes], what: str) -> None:
    """No secret occurs in what was written."""
    for secret in secrets:
        assert secret not in written, f"{what} tells {secret!r}"


class Watched(Group):
    """Workers that write logs and audit files, and connections that record what comes to the drivers.

    Attributes:
        texts: what was written or raised.
        came: what came to the honest driver: kind and payload of each item.
    """

    def __init__(self, keys: Path, folder: Path) -> None:
        self.folder = folder
        self.texts: list[str] = []
        self.came: list[tuple[int, bytes]] = []
        super().__init__(keys)
        for worker in self.honest:
            self._record(worker.control)

    def _serve(self, identity: Identity) -> WorkerServer:
        node = NetworkNode(identity, {}, SETTINGS, limits=LIMITS)
        node.audit.sinks.append(AuditFile(self.folder / f"{identity.id}.audit", identity.id))
        host = SessionHost(node, identity, SETTINGS)
        return WorkerServer(node, identity, settings=SETTINGS, sessions=host, tell=logs.log).start()

    def _record(self, control: Any) -> None:
        deliver = control._deliver

        def record(kind: int, number: int, payload: bytes) -> None:
            self.came.append((kind, bytes(payload)))
            deliver(kind, number, payload)

        control._deliver = record

    def share(self, x: Any, **options: Any) -> Any:
        """Share among the workers."""
        return x.share(*self.honest[:2], crypto_provider=self.honest[2], **options)

    def written(self) -> bytes:
        """Everything that anybody could read."""
        audits = b"".join((self.folder / f"{id}.audit").read_bytes() for id in MEMBERS)
        assert audits
        return audits + "\n".join(self.texts).encode()


@pytest.fixture(scope="module")
def group(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    made = Watched(keys, tmp_path_factory.mktemp("watched"))
    yield made
    for worker in (*made.honest, *made.rogue):
        worker.close()
    for server in made.servers:
        server.stop()


@pytest.fixture(autouse=True)
def reading(group: Watched, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keep what is logged, at the level that logs most."""
    group.came.clear()
    with caplog.at_level(logging.DEBUG):
        yield
    group.texts += [f"{record.getMessage()} {getattr(record, 'facts', '')}" for record in caplog.records]
    for rank in range(3):
        group.host(rank)._proposals.clear()


def secrets_of(shares: list[torch.Tensor]) -> list[bytes]:
    """The secrets, and elements of shares, in every form."""
    found = [form for value in SECRETS for form in forms(value)]
    for share in shares:
        for element in share.reshape(-1)[:50].tolist():
            word = element % (1 << 64)
            if min(word, -element % (1 << 64)) < 1 << 32:  # as public values are; nothing to search a text for
                continue
            found += [str(element).encode(), str(word).encode(), f"{word:x}".encode()]
            found += [word.to_bytes(8, "little"), word.to_bytes(8, "big")]
    return found


def held(group: Group, session: Any) -> list[torch.Tensor]:
    """Every share that the parties hold in a session."""
    session.sync()
    members = [group.host(rank)._sessions[session.id]._member for rank in range(2)]
    return [share.data for member in members if member is not None for share in member.store.values()]


def train(group: Watched) -> tuple[Any, Any]:
    """A step of training on secrets, and the loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    group.share(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = group.share(torch.tensor([SECRETS]) / 65536 + torch.zeros(4, 3))
    for _ in range(2):
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
    return x, loss.detach()


# ------------------------------------------------------------------------------------------------ what can be read


def objects_of(group: Watched, session: Any, x: Any) -> list[Any]:
    """Everything on both sides that has to do with a session, down to the connections."""
    found: list[Any] = [x, x.handle, session, session.document, session.costs, *group.honest, *group.servers]
    found += [worker.control for worker in group.honest]
    for rank in range(3):
        host = group.host(rank)
        hosted_session = host._sessions[session.id]
        member = hosted_session._member
        assert member is not None
        found += [host, host.identity, host.node, hosted_session, member, member.party, member.party.__dict__]
        found += [hosted_session.meeting, hosted_session.arrivals, hosted_session.book, hosted_session.fresh]
        found.append(member.store)
        for link in member.links:
            found += [link, link.outgoing, link.incoming, link.outgoing._direction, link.incoming._direction]
    return found


def test_texts_of_objects(group: Watched) -> None:
    x = group.share(torch.tensor(SECRETS))
    y = x * x
    shares = held(group, x.session)
    for thing in objects_of(group, x.session, y):
        require_absent(f"{thing!r} {thing}".encode(), secrets_of(shares), f"repr of {type(thing).__name__}")
    for rank in range(3):
        for link in group.host(rank)._sessions[x.session.id]._member.links:
            keys = [link.outgoing._direction.key, link.incoming._direction.key]
            needles = [form for key in keys for form in (key, key.hex().encode(), repr(key).encode())]
            for thing in objects_of(group, x.session, x):
                require_absent(repr(thing).encode(), needles, f"repr of {type(thing).__name__}")


def test_logs_audits_and_errors(group: Watched) -> None:
    """While all goes well, and while a driver tries everything on secrets that a hostile one can."""
    x, loss = train(group)
    shares = held(group, x.session)
    assert loss.get().item() > 0
    for program in (lambda: x @ x, lambda: x[7], lambda: x.view(99), lambda: x + torch.zeros(5)):
        with pytest.raises((ShareTorchError, RuntimeError, IndexError, ValueError)) as caught:
            program()
        group.texts.append(str(caught.value))
    for make, _ in COMMANDS.values():
        rogue = Rogue(group)
        rogue.x = rogue.session.distribute((torch.tensor([SECRETS, SECRETS]) * 65536).long())
        rogue.session.sync()
        rogue.next += 1
        mine = held(group, rogue.session)
        answer = rogue.ask(make(rogue), 0, 3)
        group.texts.append(repr(answer))
        require_absent(repr(answer).encode(), secrets_of(mine), "a refusal")
        rogue.session.close()
        assert until(lambda: not any(s.control.peer.id == "mallory" for s in group.host(0)._sessions.values()))
    require_absent(group.written(), secrets_of(shares), "a log, an audit or an error")


def test_a_secret_in_an_error_would_be_seen(group: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same search, with a member that names a share in an error."""

    def telling(session: Any, member: Any, item: Any) -> None:
        if not member.party.is_provider:
            raise ValueError(f"Cannot sync {member.store[x.handle.number].data.tolist()}.")

    x = group.share(torch.tensor(SECRETS))
    shares = held(group, x.session)
    monkeypatch.setitem(hosted.HANDLERS, Sync, telling)
    with pytest.raises(Exception, match="Cannot sync") as caught:
        x.session.sync()
    with pytest.raises(AssertionError, match="an error tells"):
        require_absent(str(caught.value).encode(), secrets_of(shares), "an error")


# ------------------------------------------------------------------------------------------- what the driver gets


def read(came: list[tuple[int, bytes]]) -> list[Any]:
    """What came to the driver, read."""
    answers, notices = wire.Decoder(Answer, None), wire.Decoder(Notice, None)
    found = []
    for _, payload in came:
        try:
            found.append(answers.decode(payload))
        except ShareTorchError:
            found.append(notices.decode(payload))
    return found


def require_nothing_but_outputs(group: Watched, asked: int, shares: list[torch.Tensor]) -> None:
    """As many shares came as were asked for, none that a member holds, and nothing else has room for one."""
    items = read(group.came)
    given = [item for item in items if isinstance(item, Share)]
    assert len(given) == asked, f"{len(given)} shares came, {asked} were asked for"
    kept = {share.numpy().tobytes() for share in shares if not share.is_meta}
    assert not kept & {item.contents for item in given}, "a share came as a member holds it"
    for item in items:
        if isinstance(item, (Share, Progress, Ended, Refused)):
            continue
        assert len(wire.encode(item)) < 100, f"{type(item).__name__} is larger than it should be"
    others = [payload for (_, payload), item in zip(group.came, items, strict=True) if not isinstance(item, Share)]
    require_absent(b"".join(others), secrets_of(shares), "an item other than an output")


def test_no_share_reaches_the_driver_unless_it_is_put_out(group: Watched) -> None:
    x, loss = train(group)
    shares = held(group, x.session)
    require_nothing_but_outputs(group, 0, shares)
    loss.get()
    require_nothing_but_outputs(group, 2, shares)


def test_outputs_are_fresh_and_uniform(group: Watched) -> None:
    """The same public value in every element: what comes of it is uniform at each party, and new at each time."""
    x = group.share(torch.full((2000,), SECRETS[0]))
    shares = held(group, x.session)
    seen: list[bytes] = []
    for _ in range(2):
        group.came.clear()
        assert x.get().unique().tolist() == [SECRETS[0]]
        require_nothing_but_outputs(group, 2, shares)
        seen += [item.contents for item in read(group.came) if isinstance(item, Share)]
    assert len(set(seen)) == 4
    for contents in seen:
        require_uniform(np.frombuffer(contents, np.uint8), 256, "an output")
    for place in range(8):
        for contents in seen:
            require_uniform(np.frombuffer(contents, np.uint8)[place::8] >> 4, 16, f"byte {place} of outputs")


def _unrefreshed(session: Any, member: Any, item: Output) -> Share:
    """A member that puts out what it holds."""
    data = next(share.data for share in member.store.values() if share.data.numel() == 3)
    return Share(list(data.shape), data.numpy().tobytes())


def _chatty(session: Any, member: Any, item: Sync) -> Any:
    """A member that gives shares where none were asked for."""
    data = [share.data for share in member.store.values() if not share.data.is_meta]
    return Share([3], b"".join(share.numpy().tobytes() for share in data[:1]))


LEAKS: dict[str, tuple[Any, Callable[..., Any], Callable[[Any], Any]]] = {
    "outputs that were not refreshed": (Output, _unrefreshed, lambda x: x.get()),
    "shares in other answers": (Sync, _chatty, lambda x: x.session.sync()),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_found(group: Watched, monkeypatch: pytest.MonkeyPatch, leak: str) -> None:
    kind, handler, use = LEAKS[leak]
    x = group.share(torch.tensor(SECRETS))
    shares = held(group, x.session)
    group.came.clear()
    monkeypatch.setitem(hosted.HANDLERS, kind, handler)
    use(x)
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        require_nothing_but_outputs(group, 2 if kind is Output else 0, shares)
    x.session.close()


def test_threads_have_public_names(group: Watched) -> None:
    """Names of threads show in every monitor."""
    x = group.share(torch.tensor(SECRETS))
    names = " ".join(thread.name for thread in threading.enumerate())
    require_absent(names.encode(), secrets_of(held(group, x.session)), "a thread's name")
    assert all(worker.id in names for worker in group.honest)
