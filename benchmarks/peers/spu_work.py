"""The tasks on SPU, in SPU's own environment: python -m peers.spu_work semi2k|aby3; see ``dialogue``.

semi2k: two parties, the first of which deals. aby3: three parties with an honest majority, a weaker and cheaper
setting. Each party is a process; this one compiles a task, makes shares and reconstructs results, all outside of the
time that is measured: that of the slowest party from a barrier on. Messages go over loopback without encryption. SPU
keeps nothing of its operands from run to run, so they are shared once. A training step gives new weights, always from
the first ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from peers.dialogue import serve, take_output
from peers.tasks import RATE, Arrays, Layer, Task

PARTIES = {"semi2k": 2, "aby3": 3}
FRACTION_BITS = 16
_WAIT_MILLISECONDS = 600_000
_LOG_SECONDS = 0.3
_SENT = re.compile(r"total send bytes (\d+), recv bytes \d+, send actions (\d+)")


def settings(protocol: str, log: bool = False) -> Any:
    """SPU's settings: its defaults on 64 bits, with as many fraction bits as the others have."""
    from spu import libspu

    made = libspu.RuntimeConfig()
    made.protocol = {"semi2k": libspu.ProtocolKind.SEMI2K, "aby3": libspu.ProtocolKind.ABY3}[protocol]
    made.field = libspu.FieldType.FM64
    made.fxp_fraction_bits = FRACTION_BITS
    made.enable_pphlo_profile = log
    return made


# ---------------------------------------------------------------------------------------------------------- a party


class Party:
    """One party: variables and programs."""

    def __init__(self, rank: int, ports: list[int], protocol: str, folder: str) -> None:
        from spu import api, libspu

        self._log = Path(folder, f"party{rank}.log")
        options = libspu.logging.LogOptions()
        options.enable_console_logger = False
        options.system_log_path = str(self._log)
        libspu.logging.setup_logging(options)
        description = libspu.link.Desc()
        description.recv_timeout_ms = description.http_timeout_ms = _WAIT_MILLISECONDS
        for number, port in enumerate(ports):
            description.add_party(f"party{number}", f"127.0.0.1:{port}")
        self._link = libspu.link.create_brpc(description, rank)
        self._quiet = api.Runtime(self._link, settings(protocol))
        self._logging = api.Runtime(self._link, settings(protocol, log=True))
        self._program: Any = None
        self._held: list[str] = []
        self._last = self._quiet

    def prepare(self, program: Any, shares: Mapping[str, Any]) -> None:
        """Keep shares of operands, and no others."""
        from spu import libspu

        held = self._held
        self._program, self._held = libspu.Executable(**program), list(shares)
        for runtime in (self._quiet, self._logging):
            for name in held:
                runtime.del_var(name)
            for name, (meta, chunks) in shares.items():
                share = libspu.Share()
                share.meta, share.share_chunks = meta, chunks
                runtime.set_var(name, share)

    def run(self) -> float:
        """Once."""
        self._link.barrier()
        self._last = self._quiet
        start = time.perf_counter()
        self._quiet.run(self._program)
        return time.perf_counter() - start

    def result(self) -> list[Any]:
        """Shares of the last results."""
        shares = map(self._last.get_var, self._program.output_names)
        return [(share.meta, list(share.share_chunks)) for share in shares]

    def cost(self) -> tuple[int, int]:
        """Bytes and messages sent, as SPU's log has them."""
        position = self._log.stat().st_size if self._log.exists() else 0
        self._last = self._logging
        self._logging.run(self._program)
        time.sleep(_LOG_SECONDS)
        with self._log.open(encoding="utf-8", errors="replace") as log:
            log.seek(position)
            found = _SENT.findall(log.read())
        return int(found[-1][0]), int(found[-1][1])


def be_party(rank: int, ports: list[int], protocol: str, folder: str, pipe: Connection) -> None:
    """Do what the pipe says."""
    party = Party(rank, ports, protocol, folder)
    pipe.send(None)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            pipe.send(getattr(party, name)(*arguments))
        except Exception as error:  # told to whoever asked
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"[:500]))


# ------------------------------------------------------------------------------------------------------- all parties


class SPU:
    """All parties."""

    def __init__(self, protocol: str, folder: str) -> None:
        from spu import api

        count = PARTIES[protocol]
        self._io = api.Io(count, settings(protocol))
        context = multiprocessing.get_context("spawn")
        ports = free_ports(count)
        self._pipes: list[Connection] = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=be_party, args=(rank, ports, protocol, folder, theirs), daemon=True).start()
            theirs.close()
            self._pipes.append(ours)
        self._answers()
        self._work = ""

    def _ask(self, name: str, *arguments: tuple[Any, ...]) -> list[Any]:
        for rank, pipe in enumerate(self._pipes):
            pipe.send((name, arguments[rank] if arguments else ()))
        return self._answers()

    def _answers(self) -> list[Any]:
        answers = [pipe.recv() for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def prepare(self, task: Task, inputs: Arrays, protocol: str | None) -> None:
        """Compile the task, share operands and weights."""
        import numpy as np
        from spu import libspu
        from spu.utils import frontend

        names = sorted(inputs)
        values = [inputs[name].astype(np.float32) for name in names]
        secret = libspu.Visibility.VIS_SECRET
        executable, outputs = frontend.compile(
            frontend.Kind.JAX, program(task, names), values, {}, names, [secret] * len(names),
            lambda flat: [f"output {number}" for number in range(len(flat))], copts=libspu.CompilerOptions(),
        )  # fmt: skip
        made: Any = {
            "name": task.name, "input_names": names, "output_names": list(executable.output_names),
            "code": executable.code,
        }  # fmt: skip
        shares: list[dict[str, Any]] = [{} for _ in self._pipes]
        for name, value in zip(names, values, strict=True):
            for own, share in zip(shares, self._io.make_shares(value, secret), strict=True):
                own[name] = (share.meta, list(share.share_chunks))
        self._ask("prepare", *((made, own) for own in shares))
        self._results = sorted(outputs) if isinstance(outputs, dict) else ["result"]

    def run(self) -> float:
        """The slowest party's time."""
        return max(self._ask("run"))

    def result(self) -> tuple[Arrays, int]:
        """Reconstructed."""
        import numpy as np
        from spu import libspu

        found: Arrays = {}
        for name, *parts in zip(self._results, *self._ask("result"), strict=True):
            shares = []
            for meta, chunks in parts:
                share = libspu.Share()
                share.meta, share.share_chunks = meta, chunks
                shares.append(share)
            found[name] = np.asarray(self._io.reconstruct(shares)).astype(float)
        return found, 1

    def cost(self) -> dict[str, int]:
        """Of the party that sends most; a message counts as a round."""
        found = self._ask("cost")
        return {"party_bytes": max(sent for sent, _ in found), "provider_bytes": 0, "rounds": max(n for _, n in found)}


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


# --------------------------------------------------------------------------------------------------------- programs


def program(task: Task, names: list[str]) -> Callable[..., Any]:
    """The task in JAX, on arrays of these names."""
    import jax
    import jax.numpy as jnp

    def infer(arrays: Mapping[str, Any]) -> Any:
        return forward(task.layers, arrays)

    def train(arrays: Mapping[str, Any]) -> dict[str, Any]:
        weights = {name: value for name, value in arrays.items() if name[0] in "wb"}

        def loss(weights: Mapping[str, Any]) -> Any:
            return jnp.sum((forward(task.layers, {**arrays, **weights}) - arrays["y"]) ** 2) * (2 / task.batch)

        slopes = jax.grad(loss)(weights)
        return {name: value - RATE * slopes[name] for name, value in weights.items()}

    works: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
        "compare": lambda arrays: arrays["x"] > arrays["y"],
        "relu": lambda arrays: jnp.maximum(arrays["x"], 0),
        "multiply": lambda arrays: arrays["x"] * arrays["y"],
        "matmul": lambda arrays: arrays["x"] @ arrays["y"],
        "argmax": lambda arrays: jnp.argmax(arrays["x"], axis=1),
        "maxpool": lambda arrays: pool(arrays["x"], 2),
        "conv": lambda arrays: convolve(arrays["x"], arrays["y"]),
        "inference": infer,
        "training": train,
    }
    return lambda *values: works[task.work](dict(zip(names, values, strict=True)))


def forward(layers: tuple[Layer, ...], arrays: Mapping[str, Any]) -> Any:
    """A network."""
    import jax.numpy as jnp

    x, number = arrays["x"], 0
    for kind, *sizes in layers:
        weight, bias = arrays.get(f"w{number}"), arrays.get(f"b{number}")
        match kind:
            case "linear":
                x = x @ weight.T + bias
            case "conv":
                x = convolve(x, weight) + bias[None, :, None, None]
            case "relu":
                x = jnp.maximum(x, 0)
            case "maxpool":
                x = pool(x, sizes[0])
            case "flatten":
                x = x.reshape(x.shape[0], -1)
        number += kind in ("linear", "conv")
    return x


def pool(x: Any, size: int) -> Any:
    """Largest of each window."""
    import jax.numpy as jnp
    from jax import lax

    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, size, size), (1, 1, size, size), "VALID")


def convolve(x: Any, weight: Any) -> Any:
    """A convolution as torch has it."""
    from jax import lax

    return lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Do tasks on SPU.")
    parser.add_argument("protocol", choices=sorted(PARTIES))
    args = parser.parse_args()
    answers = take_output()
    os.environ |= {"OMP_THREAD_LIMIT": "1", "JAX_PLATFORMS": "cpu"}
    import spu

    parties = PARTIES[args.protocol]
    about = {
        "version": spu.__version__,
        "parties": {2: "2, one of which deals", 3: "3, honest majority"}[parties],
        "processes": parties,
        "threads": "SPU's own, OpenMP 1 each",
        "fraction_bits": FRACTION_BITS,
        "truncation": "probabilistic, without wrap error",
        "transport": "HTTP over TCP, not encrypted",
    }
    with tempfile.TemporaryDirectory() as folder:
        serve(SPU(args.protocol, folder), about, answers)


if __name__ == "__main__":
    main()
