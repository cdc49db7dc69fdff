"""``sharetorch up``: a whole group on this machine, for trying out."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sharetorch.cli.keygen import make
from sharetorch.cli.output import Commands, command, show
from sharetorch.mpc.errors import ConfigurationError, WorkerUnreachableError
from sharetorch.mpc.network.identity import Identity

if TYPE_CHECKING:
    from sharetorch.remote.network.settings import Address

PARTIES = (
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "kim", "leo", "mallory", "niaj",
    "olivia", "peggy",
)  # fmt: skip
PROVIDER = "crypto_provider"
DRIVER = "me"

_LOCAL = ["localhost", "127.0.0.1"]
_DAYS = 30
_START_SECONDS = 120
_STOP_SECONDS = 10

_DESCRIPTION = """\
Start parties and a crypto provider as processes of this machine, with keys made for the purpose, and write a group file
that scripts take with --parties. Everything stops at Ctrl-C. All keys lie in one folder of one machine: whoever reads
it reads everything, so this protects nothing. For a real group make keys with `sharetorch keygen`, and start a
`sharetorch worker` on every machine.
"""
_EXAMPLES = """\
  sharetorch up --parties 2 --demo
  python examples/encrypted_mnist.py --parties sharetorch-demo/group.toml      in another terminal
"""


def add(commands: Commands) -> None:
    """Add the command."""
    found = command(commands, "up", "start a group on this machine, for trying out", _DESCRIPTION, _EXAMPLES)
    found.add_argument("--parties", type=int, default=2, metavar="N", help=f"2 to {len(PARTIES)} (default: 2)")
    found.add_argument("--demo", action="store_true", help="make keys that protect nothing; required")
    found.add_argument("--folder", type=Path, default=Path("sharetorch-demo"), help="default: sharetorch-demo")
    found.add_argument("--public", action="store_true", help="every member may have every object")
    found.add_argument("--threads", type=int, metavar="N", help="of each worker (default: an equal part of the cores)")
    found.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command: returns when all workers have stopped.

    Raises:
        ConfigurationError: an argument is wrong, or the folder cannot be used.
        WorkerUnreachableError: a worker did not start, or ended by itself.
    """
    if not args.demo:
        raise ConfigurationError(
            "All keys of this group would lie on one machine, which protects nothing. Say --demo if that is what you "
            "want; for a real group see `sharetorch keygen --help` and `sharetorch worker --help`."
        )
    if not 2 <= args.parties <= len(PARTIES):
        raise ConfigurationError(f"{args.parties} parties: name 2 to {len(PARTIES)}.")
    parties = PARTIES[: args.parties]
    keys = args.folder / "keys"
    _make_keys(keys, [*parties, PROVIDER, DRIVER])
    addresses = _free_addresses([*parties, PROVIDER])
    with _stop_at_signals() as stop, contextlib.ExitStack() as stack:
        workers = {id: _start(stack, id, addresses, keys, args) for id in addresses}
        stack.callback(_end_input, workers)
        _await_ready(workers, stop)
        _announce(args, parties, addresses)
        while not stop.wait(0.2):
            _require_running(workers)
    show("Stopped.", {"event": "stopped"}, args.json)
    return 0


def _make_keys(keys: Path, ids: list[str]) -> None:
    """Certificates of everybody who has none, or one that ends soon."""
    existing = (keys / "ca.crt").exists()
    missing = {id: _LOCAL for id in ids if not (keys / f"{id}.crt").exists()}
    old = {id: _LOCAL for id in ids if id not in missing and _ends_soon(keys, id)}
    if missing or not existing:
        make(keys, missing, _DAYS, existing)
    if old:
        make(keys, old, _DAYS, existing=True, renew=True)


def _ends_soon(keys: Path, id: str) -> bool:
    return Identity.load(keys, id).expires < datetime.now(UTC) + timedelta(days=1)


def _free_addresses(ids: list[str]) -> dict[str, Address]:
    """A free port of this machine for each."""
    from sharetorch.remote.network.settings import Address

    with contextlib.ExitStack() as stack:
        found = {}
        for id in ids:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            found[id] = Address("127.0.0.1", sock.getsockname()[1])
    return found


def _end_input(workers: Mapping[str, _Worker]) -> None:
    for worker in workers.values():
        worker.end_input()


class _Worker:
    """A worker's process."""

    def __init__(self, id: str, process: subprocess.Popen[str]) -> None:
        self.id = id
        self.process = process
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(f"{self.id} is ready") or '"event": "ready"' in line:
                self.ready.set()

    def ended(self) -> str:
        """What to say of a worker that has ended by itself."""
        return f"{self.id} ended by itself with exit code {self.process.poll()}; what it wrote above says why."

    def end_input(self) -> None:
        """Let it end; its input ends also if this process is killed."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    def stop(self) -> None:
        """See that it ends, in the end by force."""
        self.end_input()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(1)
        if self.process.stdout is not None:
            self.process.stdout.close()


def _start(
    stack: contextlib.ExitStack, id: str, addresses: Mapping[str, Address], keys: Path, args: argparse.Namespace
) -> _Worker:
    threads = args.threads or max(1, (os.cpu_count() or 1) // len(addresses))
    command = [sys.executable, *_path_options(), "-m", "sharetorch", "worker", "--stop-with-input"]
    command += ["--id", id, "--listen", str(addresses[id]), "--keys", str(keys), "--threads", str(threads)]
    command += ["--state", str(keys.parent / "state" / id), "--log-level", "warning"]
    command += ["--public" if args.public else "--private", *(["--json"] if args.json else [])]
    for other, address in addresses.items():
        command += ["--peer", f"{other}={address}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = _Worker(id, process)
    stack.callback(worker.stop)
    return worker


def _path_options() -> list[str]:
    """``-P`` goes on to the workers: their folder shall not be searched for modules either."""
    return ["-P"] if sys.flags.safe_path else []


def _await_ready(workers: Mapping[str, _Worker], stop: threading.Event) -> None:
    deadline = time.monotonic() + _START_SECONDS
    for worker in workers.values():
        while not worker.ready.wait(0.1) and not stop.is_set():
            _require_running(workers)
            if time.monotonic() > deadline:
                raise WorkerUnreachableError(f"{worker.id} was not ready within {_START_SECONDS} s; see its log above.")


def _require_running(workers: Mapping[str, _Worker]) -> None:
    for worker in workers.values():
        if worker.process.poll() is not None:
            raise WorkerUnreachableError(f"{worker.ended()} The others are stopped.")


def _announce(args: argparse.Namespace, parties: tuple[str, ...], addresses: Mapping[str, Address]) -> None:
    from sharetorch.remote.network.group import write_group

    path = args.folder / "group.toml"
    write_group(path, {id: addresses[id] for id in parties}, (PROVIDER, addresses[PROVIDER]), "keys", DRIVER)
    lines = [f"{id} is ready at {address}." for id, address in addresses.items()]
    lines += [
        "",
        f"In another terminal:  python examples/encrypted_mnist.py --parties {path}",
        "In a script:",
        "    import sharetorch as st",
        f"    parties, provider = st.load_group({str(path)!r}).connect()",
        "    x.share(*parties, crypto_provider=provider)",
        "These are keys for trying out: they protect nothing. Ctrl-C stops all.",
    ]
    members = {id: str(address) for id, address in addresses.items()}
    show("\n".join(lines), {"event": "ready", "group": str(path), "members": members}, args.json)


@contextlib.contextmanager
def _stop_at_signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
