"""``sharetorch worker``: one party, provider or data owner as a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sharetorch.cli import logs
from sharetorch.cli.output import Commands, command, show
from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.network.identity import Identity

if TYPE_CHECKING:
    from sharetorch.remote.audit import Entry
    from sharetorch.remote.network.server import WorkerServer
    from sharetorch.remote.network.settings import DatasetSettings, PolicySettings, WorkerSettings

_SOON_DAYS = 14

_DESCRIPTION = """\
Run a worker: it listens for drivers and other workers of its group, holds objects and shares, and computes.
Settings come from a TOML file, from options, or from both; options go before the file. The worker stops at SIGTERM or
Ctrl-C. Log lines go to standard error; one line on standard output says when it is ready and where it listens.
Under torchrun a worker consists of several processes; the one of rank k listens k ports above --listen.
"""
_EXAMPLES = """\
  sharetorch worker --config /etc/sharetorch/worker.toml
  sharetorch worker --id alice --listen 0.0.0.0:8777 --keys keys \\
      --peer bob=bob.example:8777 --peer crypto_provider=cp.example:8777
  sharetorch worker --id alice --keys keys --listen 127.0.0.1:0 --json     any free port, which the ready line names
  torchrun --nproc-per-node 2 -m sharetorch worker --config /etc/sharetorch/worker.toml
"""


def add(commands: Commands) -> None:
    """Add the command."""
    found = command(commands, "worker", "run a worker", _DESCRIPTION, _EXAMPLES)
    add_settings(found)
    found.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default: info")
    found.add_argument("--threads", type=int, metavar="N", help="threads for computation")
    found.add_argument("--stop-with-input", action="store_true", help="stop when standard input ends, too")
    found.set_defaults(run=run)


def add_settings(found: argparse.ArgumentParser) -> None:
    """Add the options that say which worker is meant, and how it is set up."""
    found.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML")
    found.add_argument("--id", help="name of the worker, which its certificate bears")
    found.add_argument("--listen", metavar="HOST:PORT", help="where it listens (default: 127.0.0.1:8777)")
    found.add_argument("--keys", type=Path, metavar="FOLDER", help="its certificate and keys")
    found.add_argument("--state", type=Path, metavar="FOLDER", help="for checkpoints; none are kept without it")
    found.add_argument(
        "--peer", action="append", default=[], metavar="ID=HOST:PORT", help="another worker; may be given several times"
    )
    privacy = found.add_mutually_exclusive_group()
    privacy.add_argument(
        "--private", action="store_true", default=None, help="only owners get objects back (the default)"
    )
    privacy.add_argument("--public", action="store_false", dest="private", help="every member of the group may")


def settings_of(args: argparse.Namespace) -> WorkerSettings:
    """The settings that file and options make together.

    Raises:
        ConfigurationError: something is missing or wrong.
    """
    from sharetorch.remote.network.settings import load

    peers = {}
    for entry in args.peer:
        id, equals, address = entry.partition("=")
        if not equals:
            raise ConfigurationError(f"--peer {entry} is no ID=HOST:PORT, such as bob=bob.example:8777.")
        peers[id] = address
    options = {key: getattr(args, key, None) for key in ("id", "listen", "keys", "state", "private", "log_level")}
    return load(args.config, options | {"threads": getattr(args, "threads", None), "peers": peers or None})


def run(args: argparse.Namespace) -> int:
    """Carry out the command: returns when the worker has stopped.

    Raises:
        ConfigurationError: settings, keys or data are wrong, or the address cannot be used.
    """
    settings = settings_of(args)
    logs.start(settings.id, settings.log_level, args.json)
    identity = Identity.load(settings.keys, settings.id)
    _require_valid(identity)
    _use_threads(settings.threads)
    with _stop_signals(args.stop_with_input) as stop, contextlib.ExitStack() as stack:
        address = _written(serve(settings, identity, stack))
        logs.log("info", "ready", address=address, private=settings.private, peers=len(settings.peers))
        content = {"event": "ready", "worker": settings.id, "address": address, "pid": os.getpid()}
        show(f"{settings.id} is ready at {address}.", content, args.json)
        _notify("READY=1")
        stop.wait()
        logs.log("info", "stopping")
        _notify("STOPPING=1")
    logs.log("info", "stopped")
    return 0


def serve(settings: WorkerSettings, identity: Identity, stack: contextlib.ExitStack) -> WorkerServer:
    """A worker with its data, listening.

    Args:
        settings: everything about it.
        identity: its keys.
        stack: stops the worker, and closes its files, when it is left.

    Raises:
        ConfigurationError: a policy is wrong, or the audit file cannot be used.
        DataSourceError: its data cannot be loaded.
        WorkerUnreachableError: its address cannot be used.
    """
    from sharetorch.remote.network import sources
    from sharetorch.remote.network.audit_file import AuditFile
    from sharetorch.remote.network.node import NetworkNode
    from sharetorch.remote.network.server import WorkerServer
    from sharetorch.remote.sessions import ranks
    from sharetorch.remote.sessions.hosting import SessionHost

    rank, count = ranks.count_from()
    if count > 1:
        settings = ranks.settings_of(settings, rank)
        joined = ranks.join_ranks(settings.id)
        stack.callback(joined.leave)
        logs.log("info", "processes have met", rank=rank, count=count)
    node = NetworkNode(identity, settings.peers, settings.network, settings.private, settings.limits)
    node.owners = frozenset(settings.owners)
    node.audit.sinks.append(_log_request)
    if settings.audit is not None:
        audit = AuditFile(settings.audit, settings.id)
        stack.callback(audit.close)
        node.audit.sinks.append(audit)
    node.shelf = sources.put(node, sources.sources_of(map(_table, settings.datasets), _table(settings.policy)))
    for shelved in node.shelf.values():
        logs.log("info", "data loaded", dataset=shelved.dataset, part=shelved.part, rows=shelved.rows)
    peers = {id: (address.host, address.port) for id, address in settings.peers.items()}
    sessions = SessionHost(node, identity, settings.network, peers, settings.state)
    if count > 1:
        ranks.enter(sessions, joined)
    server = WorkerServer(node, identity, *settings.listen, settings.network, sessions, lanes=count, tell=logs.log)
    stack.callback(server.stop)
    return server.start()


def _table(entry: DatasetSettings | PolicySettings) -> dict[str, Any]:
    """What is set in an entry."""
    table = {key: value for key, value in msgspec.structs.asdict(entry).items() if value is not None}
    if table.get("policy") is not None:
        table["policy"] = _table(table["policy"])
    return table


def _log_request(entry: Entry) -> None:
    done = entry.outcome == "done"
    facts = {"sender": entry.sender, "request": entry.request, "outcome": entry.outcome}
    logs.log("debug" if done else "info", "request" if done else "request refused", **facts)


def _require_valid(identity: Identity) -> None:
    left = identity.expires - datetime.now(UTC)
    if left.total_seconds() <= 0:
        raise ConfigurationError(
            f"The certificate of {identity.id!r} expired on {identity.expires:%Y-%m-%d %H:%M} UTC; nobody would accept "
            "it. Make a new one: `sharetorch keygen --renew`."
        )
    if left.days < _SOON_DAYS:
        logs.log("warning", "certificate expires soon", days=left.days)


def _use_threads(count: int) -> None:
    if count:
        import torch

        from sharetorch.mpc.kernels import set_thread_count

        torch.set_num_threads(count)
        set_thread_count(count)


def _written(server: WorkerServer) -> str:
    from sharetorch.remote.network.settings import Address

    return str(Address(*server.address))


@contextlib.contextmanager
def _stop_signals(with_input: bool) -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, and the end of standard input if asked for."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    if with_input:
        threading.Thread(target=_await_end_of_input, args=(stop,), daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await_end_of_input(stop: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 1 << 12):
            pass
    stop.set()


def _notify(state: str) -> None:
    """Tell systemd, if it asked to be told (``Type=notify``)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        name = f"\0{path[1:]}" if path.startswith("@") else path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), name)
