"""``sharetorch requests``: what waits at a worker for its owner's word."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from sharetorch.cli.output import Commands, command, show
from sharetorch.cli.worker import add_settings, settings_of
from sharetorch.mpc.network.identity import Identity

if TYPE_CHECKING:
    from sharetorch.remote.network.client import NetworkedWorker

_DESCRIPTION = """\
Show what members of the group ask the owner of a worker's data for, and grant or refuse it. The command connects to the
running worker with the worker's own keys, so run it where these are; or with those of a member that the worker's
settings list under owners. To deny takes back what was approved, as far as it was not fetched yet.
"""
_EXAMPLES = """\
  sharetorch requests list --config /etc/sharetorch/worker.toml
  sharetorch requests approve 3 --config /etc/sharetorch/worker.toml
  sharetorch requests deny 4 5 --id alice --keys keys --listen 127.0.0.1:8777
"""


def add(commands: Commands) -> None:
    """Add the command."""
    found = command(commands, "requests", "requests that wait for the owner", _DESCRIPTION, _EXAMPLES)
    found.add_argument("action", choices=["list", "approve", "deny"])
    found.add_argument("number", nargs="*", type=int, help="of a request, as `list` shows it")
    add_settings(found)
    found.add_argument("--as", dest="identity", metavar="ID", help="whose keys to use, if not the worker's own")
    found.add_argument("--all", action="store_true", help="list those that are decided, too")
    found.set_defaults(run=run, usage_error=found.error)


def run(args: argparse.Namespace) -> int:
    """Carry out the command.

    Raises:
        NetworkError: the worker does not answer, or refuses.
        RemoteError: a request of that number does not wait.
    """
    if (args.action == "list") == bool(args.number):
        args.usage_error("list takes no numbers; approve and deny take one or more")
    from sharetorch.remote.network import approvals

    with _worker(args) as worker:
        if args.action == "list":
            found = approvals.waiting(worker.control, args.all, worker.id)
        else:
            approve = args.action == "approve"
            found = [approvals.decide(worker.control, number, approve, worker.id) for number in args.number]
    text = "\n".join(map(approvals.line, found)) or f"Nothing waits at {worker.id}."
    show(text, {"requests": [msgspec.structs.asdict(asked) for asked in found]}, args.json)
    return 0


@contextmanager
def _worker(args: argparse.Namespace) -> Iterator[NetworkedWorker]:
    """A connection to the worker, by default as itself."""
    from sharetorch.remote.network.client import NetworkedWorker
    from sharetorch.remote.network.settings import Address

    settings = settings_of(args)
    identity = Identity.load(settings.keys, args.identity or settings.id)
    host = _ANY.get(settings.listen.host, settings.listen.host)
    worker = NetworkedWorker(Address(host, settings.listen.port), settings.id, identity, settings.network).connect()
    try:
        yield worker
    finally:
        worker.close()


_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to reach what listens at all addresses of this machine."""
