"""A virtual environment for each peer, made once by pip alone: python benchmarks/peers/install.py

They are kept in the folder that SHARETORCH_PEERS names, by default ~/.cache/sharetorch/peers. CrypTen's uses the torch
of the environment that runs this script, so both compute with the same one.

CrypTen's released package no longer imports beside a current torch: its converter names a private module that is gone.
The import is guarded here, in the installed copy; nothing that is measured goes through the converter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

VARIABLE = "SHARETORCH_PEERS"
_SECONDS = 900
_GONE = "    from torch.onnx._internal.registration import registry  # noqa\n"
_GUARDED = "    registry = None\n"


class Peer(NamedTuple):
    """What to install.

    Attributes:
        name: what it is called.
        module: what is imported to see whether it works.
        needs: packages with their versions; no others are installed.
        uses_torch: whether it uses the torch of this environment.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    uses_torch: bool = False

    @property
    def version(self) -> str:
        """Its version."""
        return self.needs[0].partition("==")[2]


CRYPTEN = Peer(
    "CrypTen",
    "crypten",
    (
        "crypten==0.4.1",
        "pyyaml==6.0.3",
        "omegaconf==2.4.0",
        "antlr4-python3-runtime==4.9.3",
        "onnx==1.23.2",
        "protobuf==7.36.2",
        "ml_dtypes==0.6.0",
    ),
    uses_torch=True,
)
SPU = Peer(
    "SPU",
    "spu.api",
    (
        "spu==0.9.5",
        "cachetools==8.0.1",
        "cloudpickle==3.1.2",
        "dill==0.4.1",
        "jax==0.4.34",
        "jaxlib==0.4.34",
        "ml_dtypes==0.5.4",
        "multiprocess==0.70.19",
        "numpy==1.26.4",
        "opt_einsum==3.4.0",
        "scipy==1.17.1",
        "termcolor==3.3.0",
    ),
)


class NotInstalledError(Exception):
    """A peer cannot be used; says why."""


def folder() -> Path:
    """Where the environments are."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "sharetorch" / "peers"


def interpreter(peer: Peer, install: bool = True) -> Path:
    """The Python of a peer's environment.

    Args:
        peer: whose.
        install: whether to make the environment if it is not there.

    Raises:
        NotInstalledError: it is not there, or cannot be made.
    """
    python_version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    place = folder() / f"{peer.module.partition('.')[0]}-{peer.version}-{python_version}"
    done = place / "complete"
    python = place / "bin" / "python"
    if not done.exists():
        if not install:
            raise NotInstalledError(f"{peer.name} {peer.version} is not installed in {place}")
        _make(peer, place, python)
        done.touch()
    elif peer.uses_torch:
        _lend_torch(place)
    return python


def _make(peer: Peer, place: Path, python: Path) -> None:
    print(f"making {place}", flush=True)
    _run(peer, sys.executable, "-m", "venv", "--clear", str(place))
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    _run(peer, str(python), *pip, *peer.needs)
    if peer.uses_torch:
        _lend_torch(place)
    for converter in _packages(place).glob("crypten/nn/onnx_converter.py"):
        converter.write_text(converter.read_text(encoding="utf-8").replace(_GONE, _GUARDED), encoding="utf-8")
    _run(peer, str(python), "-W", "ignore", "-c", f"import {peer.module}")


def _lend_torch(place: Path) -> None:
    """Let the environment find this one's packages, after its own."""
    (_packages(place) / "zz_torch.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def _packages(place: Path) -> Path:
    (found,) = place.glob("lib/python*/site-packages")
    return found


def _run(peer: Peer, *command: str) -> None:
    try:
        done = subprocess.run(
            command, timeout=_SECONDS, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotInstalledError(f"{peer.name} {peer.version} cannot be installed: {error}") from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "no reason")
        raise NotInstalledError(f"{peer.name} {peer.version} cannot be installed: {reason.strip()}")


def main() -> None:
    """Install all peers, and say which cannot be."""
    for peer in (CRYPTEN, SPU):
        try:
            print(f"{peer.name} {peer.version}: {interpreter(peer)}")
        except NotInstalledError as error:
            print(f"skipped: {error}")


if __name__ == "__main__":
    main()
