"""How the scripts here talk to the program that runs them: a line of JSON each way, on standard input and output.

{"do": "prepare", "task": ..., "quick": ..., "inputs": FILE.npz, "protocol": ...}   share the operands
{"do": "run"}            the work once, on shares; answers "seconds"
{"do": "result", "file": FILE.npz}   write the last result, opened; answers how many "steps" were done
{"do": "cost"}           the work once, counted; answers "party_bytes", "provider_bytes" and "rounds"

The first line comes unasked and says what the system is. An answer with "failed" says what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from peers.tasks import Arrays, Task, tasks


class Work(Protocol):
    """What a system does with a task."""

    def prepare(self, task: Task, inputs: Arrays, protocol: str | None) -> None:
        """Share the operands."""

    def run(self) -> float:
        """Do the work once; its results stay shared. Returns seconds, from when all operands are shared."""

    def result(self) -> tuple[Arrays, int]:
        """The last result, opened, and after how many steps."""

    def cost(self) -> Mapping[str, int]:
        """Do the work once; bytes and rounds."""


def take_output() -> TextIO:
    """Standard output for answers; what libraries print from now on goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def serve(work: Work, about: Mapping[str, Any], answers: TextIO, lines: Iterable[str] = sys.stdin) -> None:
    """Answer until there are no more lines."""
    print(json.dumps(about), file=answers, flush=True)
    for line in lines:
        try:
            answer: Mapping[str, Any] = _answer(work, json.loads(line))
        except Exception as error:  # a system that fails at one task may do the others
            answer = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(work: Work, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    match asked["do"]:
        case "prepare":
            work.prepare(tasks(asked["quick"])[asked["task"]], read(asked["inputs"]), asked["protocol"])
            return {}
        case "run":
            return {"seconds": work.run()}
        case "result":
            arrays, steps = work.result()
            np.savez(asked["file"], **arrays)
            return {"steps": steps}
        case "cost":
            return work.cost()
    raise ValueError(f"nobody knows how to {asked['do']!r}")


def read(file: str | Path) -> Arrays:
    """Arrays of a file."""
    with np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}
