"""``sharetorch fl serve``: the server of a federation of real clients."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharetorch.cli import arguments, logs
from sharetorch.cli import fl_options as options
from sharetorch.cli.output import Commands, Raw, show
from sharetorch.fl.rounds.strategies import STRATEGIES

if TYPE_CHECKING:
    from sharetorch.fl.deployment import Learning, Serving
    from sharetorch.fl.rounds.reports import RoundReport
    from sharetorch.remote.network.settings import Address

DEFAULT_LISTEN = "127.0.0.1:8780"

_DESCRIPTION = """\
Run the server of a federation. Clients, `sharetorch fl join`, connect to it over TLS 1.3 with certificates of the
group's authority (`sharetorch keygen`). In each round they train on data of their own, and the server gets the sum of
their updates, under masks that it cannot take off single ones. Who is on the list of enrolled clients takes part; the
list is read anew before each round. If --state holds a federation already, it goes on.
"""
_EXAMPLES = """\
  sharetorch keygen --id server --id alice --id bob --id carol
  sharetorch fl serve --model mlp:64,32,10 --rounds 20 --listen 0.0.0.0:8780 --cert keys/server.crt \\
      --enrolled clients.txt --least 3 --deadline 120 --state federation --save model.safetensors --log rounds.json
"""


def add(commands: Commands) -> None:
    """Add the command."""
    found = commands.add_parser(
        "serve", help="the server of a federation of real clients", description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}", formatter_class=Raw,
    )  # fmt: skip
    options.add_keys(found, "the server")
    _add_rounds(found)
    _add_learning(found)
    _add_results(found)
    found.set_defaults(run=run)


def _add_rounds(found: argparse.ArgumentParser) -> None:
    add = found.add_argument
    add("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="where it listens (default: %(default)s)")
    add(
        "--enrolled", type=Path, required=True, metavar="DIR_OR_FILE",
        help="the clients: a folder of their ID.crt, or a file with an id in each line, its identity key behind it or "
        "not",
    )  # fmt: skip
    add("--rounds", type=arguments.count, required=True, metavar="N", help="how many in all")
    add("--least", type=arguments.several, default=2, metavar="N", help="clients in a sum, at least (default: 2)")
    add("--sample", type=arguments.several, metavar="N", help="clients asked in a round (default: all, at most 256)")
    add("--deadline", type=arguments.positive, default=600.0, metavar="S", help="seconds for training (default: 600)")
    add("--step-deadline", type=arguments.positive, default=60.0, metavar="S", help="for a step of a sum (default: 60)")
    add(
        "--attempts", type=arguments.count, default=3, metavar="N",
        help="at one round, before it gives up (default: 3)",
    )
    add("--patience", type=arguments.positive, metavar="S", help="wait so long for enough clients (default: for ever)")
    add("--pause", type=arguments.not_negative, default=2.0, metavar="S", help="then wait for more (default: 2)")
    add("--corrupt", type=arguments.part, default=0.1, metavar="PART", help="clients that may help the server to learn "
        "more (default: 0.1)")  # fmt: skip


def _add_learning(found: argparse.ArgumentParser) -> None:
    add = found.add_argument
    add("--model", required=True, metavar="NAME", help="cnn (images of 28x28) or mlp:INPUTS,...,OUTPUTS")
    add("--loss", default="cross_entropy", choices=("cross_entropy", "mse", "l1", "binary_cross_entropy"),
        help="default: cross_entropy")  # fmt: skip
    add("--local-epochs", type=arguments.count, default=1, metavar="N", help="of a client in a round (default: 1)")
    add("--batch-size", type=arguments.count, default=32, metavar="N", help="default: 32")
    add("--lr", type=arguments.positive, default=0.1, metavar="X", help="of the clients' SGD (default: 0.1)")
    add("--strategy", choices=tuple(STRATEGIES), default="fedavg", help="server optimizer (default: fedavg)")
    add("--server-lr", type=arguments.positive, metavar="X", help="of the server (default: 1, for adaptive ones 0.01)")
    add("--mu", type=arguments.not_negative, default=0.01, metavar="X", help="of fedprox (default: 0.01)")
    add("--clip", type=arguments.not_negative, default=0.0, metavar="X", help="longest update (default: any)")
    add("--bound", type=arguments.positive, default=256.0, metavar="X", help="magnitude of a coordinate (default: 256)")
    add("--seed", type=arguments.seed, default=0, metavar="N", help="of first values and orders of items (default: 0)")


def _add_results(found: argparse.ArgumentParser) -> None:
    add = found.add_argument
    options.add_data(found, "--test", False, "items to test each round's model on")
    add(
        "--stop-after", type=arguments.count, metavar="N",
        help="stop when the test accuracy has not risen for N rounds",
    )
    add("--save", type=arguments.model_file, metavar="FILE", help="write the final model there, as .safetensors")
    add("--log", type=arguments.output, metavar="FILE", help="write all rounds there as JSON, after each")
    add("--tensorboard", type=Path, metavar="DIR", help="log for TensorBoard")


def run(args: argparse.Namespace) -> int:
    """Carry out the command: returns when the federation is over.

    Raises:
        ShareTorchError: an option is wrong, or as ``fl.deployment.serve``.
    """
    from sharetorch.fl import deployment
    from sharetorch.fl.deployment import storage
    from sharetorch.fl.rounds.evaluation import accuracy_on
    from sharetorch.fl.rounds.reports import EarlyStop, Listener, TensorBoard
    from sharetorch.mpc.errors import ConfigurationError

    identity = options.identity_of(args.cert)
    learning, serving = _learning(args), _serving(args)
    if args.stop_after and args.data is None:
        raise ConfigurationError("--stop-after looks at the accuracy on test items. Name them with --test.")
    test = None if args.data is None else options.data_of(args, True)
    evaluate = None if test is None else accuracy_on(test.data, test.targets)
    stop = None if args.stop_after is None else EarlyStop("accuracy", args.stop_after)
    listeners: list[Listener] = [] if args.tensorboard is None else [TensorBoard(args.tensorboard)]
    options.use_threads(args.threads)
    logs.start(identity.id, args.log_level, args.json)

    def opened(address: Address) -> None:
        content = {"event": "ready", "address": str(address), "pid": os.getpid()}
        show(f"{identity.id} listens at {address}.", content, args.json)

    def recorded(reports: list[RoundReport]) -> None:
        if args.log is not None:
            storage.save_log(args.log, _settings(args), reports)

    served = options.carried_out(
        deployment.serve(
            learning, serving, identity, args.cert.parent / "ca.crt", args.enrolled, args.state, args.listen,
            STRATEGIES[args.strategy](args.server_lr, args.mu), evaluate, stop, listeners, tell=logs.log,
            opened=opened, recorded=recorded,
        )  # fmt: skip
    )
    if served is None:
        show("Stopped; start it again with the same --state to go on.", {"event": "stopped"}, args.json)
        return 0
    if args.save is not None:
        storage.save_model(args.save, served.model)
    last = served.reports[-1] if served.reports else None
    figures: dict[str, Any] = {} if last is None else {"loss": last.loss, **last.metrics}
    told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
    content = {"event": "finished", "rounds": len(served.reports), **figures}
    show(f"{len(served.reports)} rounds are over{': ' + told if told else ''}.", content, args.json)
    return 0


def _learning(args: argparse.Namespace) -> Learning:
    from sharetorch.fl.deployment import Learning
    from sharetorch.fl.deployment.models import stock
    from sharetorch.fl.training import Settings

    stock(args.model)
    settings = Settings(args.batch_size, args.local_epochs, optimizer_args={"lr": args.lr})
    return Learning(
        args.model, args.loss, settings=settings, seed=args.seed, clip=args.clip, largest=args.bound
    )


def _serving(args: argparse.Namespace) -> Serving:
    from sharetorch.fl.deployment import Serving

    return Serving(
        args.rounds, args.least, args.sample, args.deadline, args.step_deadline, args.attempts, args.patience,
        args.pause, corrupt=args.corrupt,
    )  # fmt: skip


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the log says of the federation."""
    names = ("model", "loss", "local_epochs", "batch_size", "lr", "strategy", "least", "sample", "clip", "seed")
    return {name: value for name, value in vars(args).items() if name in names}
