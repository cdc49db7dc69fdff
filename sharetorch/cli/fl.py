"""``sharetorch fl``: federated learning, tried out in this process."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharetorch.cli import arguments, fl_join, fl_serve
from sharetorch.cli.fl_options import DEVIATION, MEAN
from sharetorch.cli.output import Commands, Raw, show
from sharetorch.fl.aggregation.registry import RULES as HIDDEN_RULES
from sharetorch.fl.rounds.aggregators import RULES
from sharetorch.fl.rounds.attacks import ATTACKS
from sharetorch.fl.rounds.reports import EarlyStop, Listener, ProgressBar, RoundReport, TensorBoard
from sharetorch.fl.rounds.simulation import MODELS, Items, Trial, simulated
from sharetorch.fl.rounds.strategies import STRATEGIES
from sharetorch.mpc.errors import ConfigurationError, FederatedDataError

if TYPE_CHECKING:
    from sharetorch.datasets import Dataset

_PLOTS = (".svg", ".png", ".pdf")
_DESCRIPTION = """\
Simulate federated learning in this process: the items of a data set are split among clients, who train in rounds; some
of them may be Byzantine, and send what they like. With --hidden the rule is computed on updates that are split among
aggregators, as between machines; without, rules are the reference ones on plain updates. Which clients are Byzantine,
who gets what, and the order of items follow from the seed.
"""
_EXAMPLES = """\
  sharetorch fl simulate --dataset digits --rounds 20 --plot out.svg
  sharetorch fl simulate --clients 20 --dataset mnist --rule trimmed-mean --byzantine 0.3 --partition dirichlet:0.3 \\
      --rounds 30 --plot out.svg --json out.json
  sharetorch fl simulate --rule median --byzantine 0.3 --hidden --least 10
"""


def add(commands: Commands) -> None:
    """Add the command."""
    group = commands.add_parser("fl", help="federated learning", description="Federated learning.", formatter_class=Raw)
    parts = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    fl_serve.add(parts)
    fl_join.add(parts)
    found = parts.add_parser(
        "simulate",
        help="a whole federation in this process",
        description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=Raw,
    )
    _add_learning(found)
    _add_attack(found)
    _add_hidden(found)
    _add_results(found)
    found.set_defaults(run=run, json=False, usage_error=found.error)


def _add_learning(found: argparse.ArgumentParser) -> None:
    given = Trial()
    add = found.add_argument
    add("--dataset", choices=("mnist", "digits"), default="digits", help="digits come with scikit-learn (default)")
    add("--data-dir", type=Path, metavar="DIR", help="folder of MNIST's four files, or one with mnist/ in it")
    add("--model", choices=("auto", *MODELS), default=given.model, help="what is trained (default: cnn for mnist)")
    add("--train-items", type=arguments.count, metavar="N", help="use the first N training items only")
    add("--clients", type=arguments.count, default=given.clients, metavar="N", help="default: %(default)s")
    add(
        "--partition", type=_partition, default=given.partition, metavar="HOW",
        help="iid (default), dirichlet:ALPHA, labels[:SHARDS] or quantity[:ALPHA]",
    )  # fmt: skip
    add("--rounds", type=arguments.count, default=given.rounds, metavar="N", help="default: %(default)s")
    add("--sample", type=arguments.count, metavar="N", help="clients in a round (default: all)")
    add("--deadline", type=arguments.positive, metavar="SECONDS", help="rounds do without clients that are late")
    add("--local-epochs", type=arguments.count, default=given.local_epochs, metavar="N", help="default: %(default)s")
    add("--batch-size", type=arguments.count, default=given.batch_size, metavar="N", help="default: %(default)s")
    add(
        "--lr", type=arguments.positive, default=given.lr, metavar="X",
        help="of the clients' SGD (default: %(default)s)",
    )
    add("--strategy", choices=tuple(STRATEGIES), default=given.strategy, help="server optimizer (default: fedavg)")
    add("--server-lr", type=arguments.positive, metavar="X", help="of the server (default: 1, for adaptive ones 0.01)")
    add("--mu", type=arguments.not_negative, default=given.mu, metavar="X", help="of fedprox (default: %(default)s)")
    add("--seed", type=arguments.seed, default=given.seed, metavar="N", help="default: %(default)s")


def _add_attack(found: argparse.ArgumentParser) -> None:
    given = Trial()
    add = found.add_argument
    add(
        "--rule", choices=tuple(dict.fromkeys([*RULES, *HIDDEN_RULES])), default=given.rule,
        help="how updates are combined (default: mean); sum, weighted-mean, sign-vote and fltrust for hidden ones only",
    )  # fmt: skip
    add(
        "--byzantine", type=arguments.part, default=0.0, metavar="PART",
        help="part of the clients that attack (default: 0)",
    )
    add("--attack", choices=tuple(ATTACKS), default=given.attack, help="what they do (default: sign-flip)")
    add(
        "--strength", type=arguments.positive, default=given.strength, metavar="X",
        help="times the honest update; of random, the standard deviation (default: %(default)s)",
    )  # fmt: skip


def _add_hidden(found: argparse.ArgumentParser) -> None:
    given = Trial()
    add = found.add_argument
    how_many = found.add_mutually_exclusive_group()
    how_many.add_argument(
        "--hidden", dest="aggregators", action="store_const", const=2, default=given.aggregators,
        help="as --aggregators 2",
    )  # fmt: skip
    how_many.add_argument(
        "--aggregators", type=arguments.count, default=given.aggregators, metavar="N",
        help="split every update among so many aggregators, who compute the rule on what none of them sees",
    )  # fmt: skip
    add(
        "--clip", type=arguments.positive, metavar="X",
        help="largest length of a hidden update; longer ones are shortened",
    )
    add(
        "--coordinate", type=arguments.positive, default=given.coordinate, metavar="X",
        help="largest coordinate of a hidden update (default: %(default)s)",
    )  # fmt: skip
    add(
        "--least", type=arguments.count, default=given.least, metavar="N",
        help="fewest clients over whom hidden updates are aggregated (default: %(default)s)",
    )  # fmt: skip
    add(
        "--guide-items", type=arguments.count, default=given.guide_items, metavar="N",
        help="items of the server's own, for fltrust (default: %(default)s)",
    )  # fmt: skip


def _add_results(found: argparse.ArgumentParser) -> None:
    add = found.add_argument
    add("--patience", type=arguments.count, metavar="N", help="stop when the accuracy has not risen for N rounds")
    add("--checkpoint", type=Path, metavar="FILE", help="write the state there, and go on from it if it is there")
    add("--plot", type=arguments.output, metavar="FILE", help=f"draw accuracy and loss; {', '.join(_PLOTS)}")
    add("--json", dest="results", type=arguments.output, metavar="FILE", help="write all rounds there")
    add("--tensorboard", type=Path, metavar="DIR", help="log for TensorBoard")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Carry out the command.

    Raises:
        TrainingError: settings that do not go together, or a package for the results is missing.
        FederatedDataError: the items cannot be split as asked.
        DataError: the data set is missing or broken.
        ConfigurationError: the plot cannot be drawn.
    """
    if args.plot is not None and args.plot.suffix not in _PLOTS:
        args.usage_error(f"argument --plot: {args.plot} must end in one of {', '.join(_PLOTS)}")
    names = {field.name for field in dataclasses.fields(Trial)} & set(vars(args))
    trial = Trial(**{name: value for name, value in vars(args).items() if name in names})
    if args.plot is not None:
        _figure()
    data = _loaded(args)
    listeners: list[Listener] = [] if args.tensorboard is None else [TensorBoard(args.tensorboard)]
    if not args.quiet:
        listeners.append(ProgressBar(trial.rounds))
    stop = None if args.patience is None else EarlyStop("accuracy", args.patience)
    reports = simulated(trial, _items(data), stop, args.checkpoint, listeners).fit()
    content = {"settings": _settings(trial, data), "rounds": [_plain(report) for report in reports]}
    if args.results is not None:
        args.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.plot is not None:
        _draw(trial, data, reports, args.plot)
    show(_summary(trial, data, reports), content, False)
    return 0


# -------------------------------------------------------------------------------------------------------------- data


def _loaded(args: argparse.Namespace) -> Dataset:
    from sharetorch.datasets import load

    data = load(args.dataset, args.data_dir)
    if args.train_items is not None:
        if args.train_items > len(data.train_labels):
            raise FederatedDataError(f"--train-items {args.train_items}: there are {len(data.train_labels)}.")
        data = data._replace(
            train_images=data.train_images[: args.train_items], train_labels=data.train_labels[: args.train_items]
        )
    return data


def _items(data: Dataset) -> Items:
    shift = (MEAN, DEVIATION) if data.name == "mnist" else (0.0, 1.0)
    images = [(x - shift[0]) / shift[1] for x in (data.train_images, data.test_images)]
    return Items(images[0], data.train_labels, images[1], data.test_labels)


# ----------------------------------------------------------------------------------------------------------- results


def _settings(trial: Trial, data: Dataset) -> dict[str, Any]:
    return {
        "dataset": data.name,
        "train_items": len(data.train_labels),
        "test_items": len(data.test_labels),
        **{name: value for name, value in dataclasses.asdict(trial).items() if name != "parallel"},
    }


def _plain(report: RoundReport) -> dict[str, Any]:
    """A report for JSON, which knows no infinity and no NaN: such figures are null."""

    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "round": report.round,
        "asked": report.asked,
        "delivered": report.delivered,
        "left_out": report.left_out,
        "loss": number(report.loss),
        "metrics": {name: number(value) for name, value in report.metrics.items()},
        "seconds": report.seconds,
    }


def _title(trial: Trial, data: Dataset) -> str:
    attack = f", {trial.attackers} of them {trial.attack}" if trial.attackers else ""
    hidden = f" of updates hidden among {trial.aggregators}" if trial.aggregators else ""
    return f"{data.name}, {trial.clients} clients{attack}, {trial.partition}, {trial.strategy}, {trial.rule}{hidden}"


def _summary(trial: Trial, data: Dataset, reports: Sequence[RoundReport]) -> str:
    accuracies = [report.metrics["accuracy"] for report in reports]
    lost = sum(len(report.left_out) for report in reports)
    lines = [
        *([data.notice] if data.notice else []),
        _title(trial, data),
        f"{len(reports)} rounds in {sum(report.seconds for report in reports):.1f} s; {lost} updates left out",
    ]
    if accuracies:
        lines.append(f"test accuracy {100 * accuracies[-1]:.2f} %, best {100 * max(accuracies):.2f} %")
    return "\n".join(lines)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError("--plot draws with matplotlib: pip install matplotlib, or leave it out.") from error
    return Figure(figsize=(7, 4), layout="constrained")


def _draw(trial: Trial, data: Dataset, reports: Sequence[RoundReport], path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "sharetorch", "svg.fonttype": "none", "font.size": 9}):
        figure = _figure()
        left = figure.subplots()
        right = left.twinx()
        rounds = [report.round for report in reports]
        marker = "o" if len(rounds) < 3 else None
        accuracy = [100 * report.metrics["accuracy"] for report in reports]
        loss = [math.nan if report.loss is None else report.loss for report in reports]
        left.plot(rounds, accuracy, color="#0072b2", marker=marker)
        right.plot(rounds, loss, color="#d55e00", linestyle="--", marker=marker)
        left.set(xlabel="round", ylim=(0, 100), title=_title(trial, data))
        left.set_ylabel("test accuracy, %", color="#0072b2")
        right.set_ylabel("clients' loss", color="#d55e00")
        left.grid(alpha=0.3)
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, facecolor="white")


# ----------------------------------------------------------------------------------------------------------- options


def _partition(text: str) -> str:
    from sharetorch.fl.rounds.partition import parse

    try:
        parse(text)
    except FederatedDataError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
