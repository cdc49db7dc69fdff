"""What a result of the networked benchmarks must say of where it comes from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sharetorch as st

_FOLDER = Path(st.__file__).resolve().parent
"""Of the code that is measured, wherever it is imported from."""


def provenance() -> dict[str, Any]:
    """Commit, machine, versions and load of this moment."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "congestion_control": _read(Path("/proc/sys/net/ipv4/tcp_congestion_control")),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "sharetorch": st.__version__,
        },
        "load_before": load(),
    }


def load() -> float:
    """How many threads wanted a core, averaged over the last minute: other work spoils times."""
    return round(os.getloadavg()[0], 1)


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"results are in {path}")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_FOLDER, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
