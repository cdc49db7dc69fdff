"""A virtual environment of its own for CrypTen, with the torch of this one.

CrypTen's released package no longer imports beside a current torch: its converter names a private module that is gone.
The import is guarded here, in the copy in the cache; nothing that is measured goes through the converter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

VERSION = "0.4.1"
_NEEDED = (
    f"crypten=={VERSION}",
    "pyyaml",
    "omegaconf",
    "antlr4-python3-runtime==4.9.3",
    "onnx",
    "protobuf",
    "ml_dtypes",
)
_GONE = "    from torch.onnx._internal.registration import registry  # noqa\n"
_GUARDED = "    registry = None\n"
_SECONDS = 600


def interpreter() -> Path:
    """The environment's Python; the environment is made if it is not there.

    Raises:
        OSError: it cannot be made.
        subprocess.SubprocessError: likewise.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "sharetorch" / f"crypten-{VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        print(f"making {folder}", flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", *_NEEDED)
        (converter,) = folder.glob("lib/python*/site-packages/crypten/nn/onnx_converter.py")
        converter.write_text(converter.read_text(encoding="utf-8").replace(_GONE, _GUARDED), encoding="utf-8")
        own = sysconfig.get_path("purelib")
        (converter.parents[2] / "zz_torch.pth").write_text(own + "\n", encoding="utf-8")
        _run(str(python), "-c", "import crypten")
        done.touch()
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
