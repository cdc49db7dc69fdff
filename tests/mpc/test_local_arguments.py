"""Local operations with any arguments: what a hostile driver may name in a command ends in a result or an error.

The calls run in a process of their own: a kernel of torch that trusts its arguments would end it.
"""

from __future__ import annotations

import os
import subprocess
import sys

_PROGRAM = """
import random, resource, time
import torch
from sharetorch.mpc import linear
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.protocols.bilinear import Geometry

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
torch.set_num_threads(1)
draw = random.Random(SEED)
NUMBERS = [0, 1, -1, 2, 3, 7, -7, 64, 1000, -1000, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63)]


def numbers(most, low, high):
    return [draw.randint(low, high) for _ in range(draw.randint(0, most))]


def spatial(low, high):
    return tuple(draw.randint(low, high) for _ in range(draw.choice([1, 2])))


def image():
    return tuple(draw.randint(0, 9) for _ in range(draw.choice([3, 4])))


KINDS = [
    lambda: Slot(0),
    lambda: Slot(draw.randint(0, 1)),
    lambda: draw.randint(-3, 6),
    lambda: draw.choice(NUMBERS),
    lambda: numbers(4, -3, 6),
    lambda: [draw.choice(NUMBERS) for _ in range(draw.randint(0, 4))],
    lambda: torch.tensor([draw.choice(NUMBERS) for _ in range(draw.randint(0, 4))]),
    lambda: [Slot(0), Slot(1)],
    lambda: [torch.tensor([draw.choice(NUMBERS), 1]), None, torch.tensor([draw.randint(-3, 6)])],
    lambda: draw.choice([None, True, 1.5, "text"]),
    lambda: Geometry(image(), image(), spatial(0, 3), spatial(0, 3), spatial(0, 3), draw.randint(0, 3)),
]
names, done = sorted(linear.FUNCTIONS), 0
for call in range(CALLS):
    name = names[call % len(names)]
    schema = getattr(linear.FUNCTIONS[name], "_schema", None)
    count = len(schema.arguments) if schema is not None else 2
    x = torch.arange(draw.choice([0, 1, 6, 24])).reshape(draw.choice([(-1,), (1, -1), (-1, 1)]))
    args = [Slot(0), *(draw.choice(KINDS)() for _ in range(count - 1 - draw.choice([0, 0, 0, 1])))]
    try:
        linear.bind(name, args, {})(x, torch.arange(6).reshape(2, 3))
        done += 1
    except Exception:
        pass
print(done)
"""


def test_no_arguments_end_the_process() -> None:
    program = _PROGRAM.replace("SEED", "7").replace("CALLS", "12000")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 500
