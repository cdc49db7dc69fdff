"""What is known of a round when it is over, who is told, and when to stop."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from sharetorch.mpc.errors import TrainingError


class RoundReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One round.

    Attributes:
        round: its number, from 1.
        asked: ids of the clients that took part, in order.
        delivered: ids of those whose update counts.
        left_out: why the others' does not, by id.
        loss: mean of the clients' losses, weighted by their items; None if nobody delivered.
        metrics: of the global model after the round, as ``evaluate`` gave them.
        seconds: the round took.
    """

    round: int
    asked: list[str]
    delivered: list[str]
    left_out: dict[str, str]
    loss: float | None
    metrics: dict[str, float]
    seconds: float


class Listener(Protocol):
    """Whoever is told of rounds."""

    def report(self, report: RoundReport) -> None:
        """A round is over."""

    def close(self) -> None:
        """No more rounds come for now."""


class EarlyStop:
    """Stop when a figure has not become better for some rounds.

    Args:
        metric: "loss", the clients', or a key of the metrics.
        patience: rounds without a better value after which to stop.
        least: by how much a value must be better to count.
        mode: whether lower or higher is better; for a name with "loss" in it lower, else higher, if not given.

    Raises:
        TrainingError: a number outside its range.
    """

    def __init__(
        self,
        metric: str = "loss",
        patience: int = 5,
        least: float = 0.0,
        mode: Literal["lower", "higher"] | None = None,
    ) -> None:
        if patience < 1 or not (least >= 0 and math.isfinite(least)):
            raise TrainingError(
                f"patience {patience} and least {least}: the first must be at least 1, the second at least 0."
            )
        self.metric = metric
        self._patience, self._least = patience, least
        self._sign = -1.0 if (mode or ("lower" if "loss" in metric else "higher")) == "lower" else 1.0

    def reached(self, reports: Sequence[RoundReport]) -> bool:
        """Whether to stop after these rounds. What is not finite is never better.

        Raises:
            TrainingError: there is no such figure.
        """
        best, since = -math.inf, 0
        for report in reports:
            value = self._sign * self._value(report)
            if value > best + (self._least if best > -math.inf else 0):
                best, since = value, 0
            else:
                since += 1
        return since >= self._patience

    def _value(self, report: RoundReport) -> float:
        if self.metric == "loss":
            return self._sign * -math.inf if report.loss is None else report.loss
        if self.metric not in report.metrics:
            raise TrainingError(
                f"There is no metric {self.metric!r} to stop by; evaluate gives "
                f"{', '.join(report.metrics) or 'none'}, and there is 'loss'."
            )
        return report.metrics[self.metric]


class ProgressBar:
    """A bar on standard error; in a log file it moves rarely.

    Args:
        rounds: how many there will be in all.
        done: how many are over already.

    Raises:
        TrainingError: tqdm is not installed.
    """

    def __init__(self, rounds: int, done: int = 0) -> None:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise TrainingError(
                "Progress bars are drawn by the package tqdm: pip install 'sharetorch[examples]', or leave them out."
            ) from error
        interval = 0.2 if sys.stderr.isatty() else 10.0
        self._bar: Any = tqdm(total=rounds, initial=done, desc="rounds", mininterval=interval, dynamic_ncols=True)

    def report(self, report: RoundReport) -> None:
        """See ``Listener``."""
        figures = {"loss": report.loss, **report.metrics}
        shown = {name: f"{value:.4f}" for name, value in figures.items() if value is not None}
        self._bar.set_postfix(clients=f"{len(report.delivered)}/{len(report.asked)}", **shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """See ``Listener``."""
        self._bar.close()


class TensorBoard:
    """Figures of each round, for TensorBoard.

    Args:
        folder: where its files go.

    Raises:
        TrainingError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "Logging for TensorBoard needs the package tensorboard: pip install tensorboard, or leave it out."
            ) from error
        self._writer: Any = SummaryWriter(str(folder))

    def report(self, report: RoundReport) -> None:
        """See ``Listener``."""
        figures = {"loss": report.loss, "clients": len(report.delivered), "seconds": report.seconds, **report.metrics}
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(f"rounds/{name}", value, report.round)

    def close(self) -> None:
        """See ``Listener``."""
        self._writer.close()
