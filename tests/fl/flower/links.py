"""A SuperLink and SuperNodes as processes, on free ports, with files in one folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.network.ports import free_port

APP = Path(__file__).parent / "app"
METADATA = (b"://169.254.169.254/", b"://metadata.google.internal/")
"""Where a machine of a cloud asks which one it is in. Ray does, whatever its settings; it tells nobody."""


class Trap:
    """A proxy that notes who would reach beyond this machine, and lets nobody through."""

    def __init__(self) -> None:
        self.caught: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection:
                    connection.settimeout(1)
                    with contextlib.suppress(OSError):
                        self.caught.append(connection.recv(200))

    @property
    def beyond(self) -> list[bytes]:
        """Who would have reached beyond this machine and its own cloud."""
        return [each for each in self.caught if not any(part in each.split(b"\r\n")[0] for part in METADATA)]

    def close(self) -> None:
        self._server.close()


class Link:
    """A SuperLink with TLS, and what is started beside it.

    Args:
        folder: for all files.
        keys: the SuperLink's certificate is that of "server" here.
        client: the app's component for clients.
        options: of the SuperLink.
    """

    def __init__(self, folder: Path, keys: Path, client: str, *options: str) -> None:
        self.folder, self.keys, self.trap = folder, keys, Trap()
        self.app, self.port = folder / "app", free_port()
        self._short = Path(tempfile.mkdtemp(prefix="f"))  # ray's sockets have short names
        self._started: list[subprocess.Popen[bytes]] = []
        shutil.copytree(APP, self.app, ignore=shutil.ignore_patterns("__pycache__"))
        project = self.app / "pyproject.toml"
        project.write_text(project.read_text().replace("hidden.client:app", f"hidden.client:{client}"))
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{keys / "ca.crt"}"\n'
        )
        secured = ("--ssl-ca-certfile", keys / "ca.crt", "--ssl-certfile", keys / "server.crt")
        self.start(
            "superlink", *secured, "--ssl-keyfile", keys / "server.key", "--host", "127.0.0.1", "--port", self.port,
            "--disable-runtime-dependency-installation", *options,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """Nothing is reported, nothing is looked for, and whoever tries is caught."""
        proxy = f"http://127.0.0.1:{self.trap.port}"
        here = ",".join({"127.0.0.1", "localhost", "::1", socket.gethostbyname(socket.gethostname())})
        return {
            **os.environ, "FLWR_HOME": str(self.folder / "home"), "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(self._short),
            "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "NO_PROXY": here, "no_proxy": here,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **{name: proxy for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy")},
        }  # fmt: skip

    def start(self, name: str, *arguments: Any) -> None:
        """Start a SuperLink or a SuperNode, in a session of its own."""
        with (self.folder / f"{name}{len(self._started)}.log").open("wb") as out:
            self._started.append(
                subprocess.Popen(
                    [self._program(f"flower-{name}"), *map(str, arguments)], env=self.environment, stdout=out,
                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.folder,
                )  # fmt: skip
            )

    def node(self, config: str) -> None:
        """Start a SuperNode."""
        self.start(
            "supernode", "--root-certificates", self.keys / "ca.crt", "--superlink", f"127.0.0.1:{self.port}",
            "--host", "127.0.0.1", "--port", free_port(), "--node-config", config,
        )  # fmt: skip

    def run(self, *options: str, **config: Any) -> list[dict[str, Any]]:
        """Run the app, and wait for what its ServerApp writes."""
        result = self.folder / "result.json"
        written = " ".join(f"{key}={json.dumps(value)}" for key, value in {**config, "result": str(result)}.items())
        self._wait_until(lambda: _listens(self.port))
        done = subprocess.run(
            [self._program("flwr"), "run", str(self.app), "here", "--run-config", written, *options],
            env=self.environment, capture_output=True, text=True, cwd=self.folder, check=False,
        )  # fmt: skip
        assert done.returncode == 0 and "Successfully started" in done.stdout, done.stdout + done.stderr
        self._wait_until(result.exists)
        found: list[dict[str, Any]] = json.loads(result.read_text())
        return found

    def _wait_until(self, true: Any, seconds: float = 800) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end and all(each.poll() is None for each in self._started), self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"{path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> list[str]:
        """End everything. Returns what would not end."""
        for process in self._started:
            process.terminate()
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)
        end = time.monotonic() + 120
        while (left := [*self._alive()]) and time.monotonic() < end:
            time.sleep(0.2)
        for number, _ in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.trap.close()
        shutil.rmtree(self._short, ignore_errors=True)
        return [name for _, name in left]

    def _alive(self) -> Iterator[tuple[int, str]]:
        """Processes with this federation's home in their environment."""
        mark = f"FLWR_HOME={self.folder / 'home'}".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]

    @staticmethod
    def _program(name: str) -> str:
        return str(Path(sys.executable).parent / name)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
