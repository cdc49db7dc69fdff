"""``sharetorch fl join``: a client of a federation."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sharetorch.cli import arguments, logs
from sharetorch.cli import fl_options as options
from sharetorch.cli.output import Commands, Raw, show
from sharetorch.mpc.errors import ConfigurationError

if TYPE_CHECKING:
    from sharetorch.fl.datasets import BaseDataset

_PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")

_DESCRIPTION = """\
Take part in a federation until it is over: connect to its server, `sharetorch fl serve`, train when asked to, and give
updates under masks, so that the server gets sums of them only. The data stay here. The client connects outwards; when
the connection or the server is lost it tries again. It refuses what it does not allow, with an error.
"""
_EXAMPLES = """\
  sharetorch fl join --server fl.example:8780 --cert keys/alice.crt --state alice-state --data patients.csv --target ill
  sharetorch fl join --server 127.0.0.1:8780 --cert keys/bob.crt --state bob-state --data digits --part 2/3 --least 3
"""


def add(commands: Commands) -> None:
    """Add the command."""
    found = commands.add_parser(
        "join", help="a client of such a federation", description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}", formatter_class=Raw,
    )  # fmt: skip
    add = found.add_argument
    options.add_keys(found, "the client")
    add("--server", required=True, metavar="HOST:PORT", help="where the server listens")
    add("--server-id", default="server", metavar="ID", help="the id in its certificate (default: server)")
    add("--enrolled", type=Path, metavar="DIR_OR_FILE",
        help="take part with these only, listed as for `fl serve` (default: all the authority knows)")  # fmt: skip
    add("--patience", type=arguments.positive, default=600.0, metavar="S",
        help="give up a server that cannot be reached for so long (default: 600)")  # fmt: skip
    options.add_data(found, "--data", True, "items to train on")
    add("--part", type=_part, metavar="K/N", help="the K-th of N parts of the items, for trials")
    add("--most-epochs", type=arguments.count, default=10, metavar="N", help="in a round (default: 10)")
    add("--most-items", type=arguments.count, default=10_000_000, metavar="N",
        help="trained on in a round, all epochs together (default: 10000000)")  # fmt: skip
    add("--least", type=arguments.several, default=2, metavar="N", help="clients in a sum, at least (default: 2)")
    add("--corrupt", type=arguments.part, default=0.1, metavar="PART",
        help="others that may help the server (default: 0.1)")  # fmt: skip
    add("--allow-graphs", action="store_true", help="train models other than stock ones, too")
    add("--save", type=arguments.model_file, metavar="FILE", help="write the final model there, as .safetensors")
    found.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command: returns when the federation is over.

    Raises:
        ShareTorchError: an option is wrong, or as ``fl.deployment.join``.
    """
    from sharetorch.fl import deployment
    from sharetorch.fl.deployment import storage

    identity = options.identity_of(args.cert)
    allowance = deployment.Allowance(args.most_epochs, args.most_items, args.least, args.corrupt, args.allow_graphs)
    joining = deployment.Joining(
        args.server, args.server_id, args.cert.parent / "ca.crt", args.state, args.enrolled, args.patience
    )
    dataset = _taken(options.data_of(args, False), args.part)
    options.use_threads(args.threads)
    logs.start(identity.id, args.log_level, args.json)
    outcome = options.carried_out(deployment.join(joining, identity, dataset, allowance, tell=logs.log))
    if outcome is None:
        show("Stopped.", {"event": "stopped"}, args.json)
        return 0
    if args.save is not None:
        storage.save_model(args.save, outcome.model)
    content = {"event": "finished", "rounds": outcome.rounds, "summed": outcome.summed}
    show(f"{outcome.rounds} rounds are over; {outcome.summed} have an update of this client.", content, args.json)
    return 0


def _part(text: str) -> tuple[int, int]:
    found = _PART.fullmatch(text)
    place, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= place <= parts:
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 2/3")
    return place, parts


def _taken(dataset: BaseDataset, part: tuple[int, int] | None) -> BaseDataset:
    """One of several parts of the items, always the same."""
    from sharetorch.fl.datasets import BaseDataset
    from sharetorch.fl.rounds import partition

    if part is None:
        return dataset
    place, parts = part
    if parts > len(dataset):
        raise ConfigurationError(f"--part {place}/{parts}: there are {len(dataset)} items. Make fewer parts.")
    chosen = partition.iid(len(dataset), parts, 0)[place - 1]
    return BaseDataset(dataset.data[chosen], dataset.targets[chosen])
