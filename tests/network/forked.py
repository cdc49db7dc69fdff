"""Processes for tests that start at once: a nursery has loaded everything and forks for each."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.network.forked_processes import Lines


class Process:
    """A process of ``forked_processes.py``.

    Attributes:
        pid: its number.
        alive: whether it was not killed.
    """

    def __init__(self, nursery: Path, **spec: Any) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(60)
        self._sock.connect(str(nursery))
        self._lines = Lines(self._sock)
        self._lines.write(**spec)
        self.pid: int = self._lines.read()["pid"]
        self.alive = True

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let it do something and wait for the answer."""
        self.order(do, **arguments)
        return self.answer()

    def order(self, do: str, **arguments: Any) -> None:
        """Let it do something."""
        self._lines.write(do=do, **arguments)

    def answer(self) -> dict[str, Any]:
        """What it says next."""
        return self._lines.read()

    def go_on(self) -> None:
        """Let a driver that has said that its phase begins go on."""
        self._lines.write(go=True)

    def kill(self) -> None:
        """As kill -9."""
        self.alive = False
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Let it hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self.resume()
        self._sock.close()

    def end(self, seconds: float = 10.0) -> None:
        """Kill it, and wait until it is gone."""
        self.alive = False
        deadline = time.monotonic() + seconds
        while self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"process {self.pid} does not end"
            time.sleep(0.005)
        self._sock.close()

    @property
    def runs(self) -> bool:
        """Whether there is such a process."""
        return Path(f"/proc/{self.pid}").exists()


@functools.cache
def nursery() -> Nursery:
    """The one of this process, which ends with it."""
    folder = tempfile.TemporaryDirectory()
    made = Nursery(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(made.close)
    return made


class Nursery:
    """A process that forks others."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "nursery"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        program = str(Path(__file__).with_name("forked_processes.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", program, str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """End it; its children end with their connections."""
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
