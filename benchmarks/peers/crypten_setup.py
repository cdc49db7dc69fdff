"""CrypTen's own environment, for the benchmarks between processes; see ``install``."""

from __future__ import annotations

from pathlib import Path

from peers import install


def interpreter() -> Path:
    """The environment's Python; the environment is made if it is not there.

    Raises:
        OSError: it cannot be made.
    """
    try:
        return install.interpreter(install.CRYPTEN)
    except install.NotInstalledError as error:
        raise OSError(str(error)) from error
