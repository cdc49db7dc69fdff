"""The strategy: a Flower strategy whose clients' updates nobody sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    MultiKrum,
    QFedAvg,
    Result,
    Strategy,
)

from sharetorch.fl.aggregation import AggregationError, Rule, RuleError
from sharetorch.fl.aggregation import rule as rule_of
from sharetorch.fl.flower import results
from sharetorch.fl.flower.errors import FlowerError, LostRoundError
from sharetorch.fl.flower.grids import Desk, Roster, added, model_in
from sharetorch.fl.flower.logs import tell, warn
from sharetorch.fl.flower.masked import MaskedRounds
from sharetorch.fl.flower.members import FEWEST, SERVER, KeyFolder, Keys
from sharetorch.fl.flower.records import Wanted
from sharetorch.fl.flower.results import Rounds, Task
from sharetorch.fl.flower.shared import Aggregators, InServerApp, LocalRounds, NetworkedRounds, Rules
from sharetorch.fl.flower.vectors import Layout, figures_of
from sharetorch.fl.masking import Limits, MaskingError, Trust
from sharetorch.fl.masking.enrolment import Signer
from sharetorch.mpc.errors import ConfigurationError

MASKED = ("sum", "mean", "weighted-mean")
"""Rules without aggregators of their own."""
_WHOLE = (FedMedian, FedTrimmedAvg, MultiKrum, Bulyan, QFedAvg, FedXgbBagging, FedXgbCyclic)
"""Strategies that need every client's own update."""
_MASK_LIMITS, _SHARE_LIMITS = Limits(8.0, 1_000_000, 24), Limits(8.0, 100_000, 16)


class _UnderWay:
    """A round between ``configure`` and ``aggregate``."""

    def __init__(self, round: results.Round, desk: Desk, layout: Layout | None, nodes: list[int]) -> None:
        self.round = round
        self.desk = desk
        self.layout = layout
        self.nodes = nodes


class SecureStrategy(Strategy):
    """A strategy of Flower's, with hidden updates.

    It samples nodes, makes messages and steps the model as the strategy it wraps does. What that one gets to aggregate
    is one reply: the model with the combined update, and the combined figures.

    Args:
        strategy: ``FedAvg`` or one derived from it that needs no client's own update: ``FedAdam``, ``FedProx``, ...
        keys: folder with the server's keys and all certificates; or ``SIMULATED``.
        name: of the server, as in its certificate.
        rule: a name of ``fl.aggregation.RULES``, or a rule. Without aggregators: "weighted-mean", "mean", "sum".
        aggregators: who computes the rule on shares; None for masked sums, with the ServerApp as the one aggregator.
        limits: largest coordinate of an update, largest weight, digits.
        clamp: whether coordinates beyond the limit are set to it; otherwise such a client leaves the round.
        train_metrics: largest magnitude of each figure that clients report after training, by name; their means are
            made known, and no others. A figure beyond it is set to it.
        evaluate_metrics: likewise; without any, clients do not evaluate.
        clip: largest length of an update (L2), for rules on shares.
        bounded: whether coordinates are forced into their range, for rules on shares; see ``Aggregation``.
        least: for rules on shares: fewest clients in a result; nodes have their own word on it.
        trust: for masks: how many clients may drop out or work with the server.
        convener: for masks: who signs documents of rounds, if not the server.
        sparse: for masks: whether each client has masks in common with some others only; needs another convener.
        timeout: seconds a step of a protocol may take. How long training may take, ``start`` says.
        skip_lost: whether a round with too few clients leaves the model as it is, instead of raising.

    Raises:
        FlowerError: the strategy needs every client's own update.
        RuleError: there is no such rule, or it needs aggregators.
        ConfigurationError: keys are missing, or a number is none.
    """

    def __init__(
        self,
        strategy: FedAvg,
        *,
        keys: Keys | Path | str,
        name: str = SERVER,
        rule: str | Rule = "weighted-mean",
        aggregators: Aggregators | InServerApp | None = None,
        limits: Limits | None = None,
        clamp: bool = False,
        train_metrics: Mapping[str, float] | None = None,
        evaluate_metrics: Mapping[str, float] | None = None,
        clip: float | None = None,
        bounded: bool | None = None,
        least: int = FEWEST,
        trust: Trust | None = None,
        convener: Signer | None = None,
        sparse: bool = False,
        timeout: float = 600.0,
        skip_lost: bool = False,
    ) -> None:
        _require_whole(strategy)
        self._inner = strategy
        self._rule = rule_of(rule) if isinstance(rule, str) else rule
        self._limits = limits or (_MASK_LIMITS if aggregators is None else _SHARE_LIMITS)
        self._clamp = clamp
        self._figures = {"train": _checked(train_metrics), "evaluate": _checked(evaluate_metrics)}
        self._timeout = timeout
        self._skip_lost = skip_lost
        self._roster = Roster()
        self._under_way: dict[str, _UnderWay] = {}
        found = KeyFolder(keys) if isinstance(keys, (str, Path)) else keys
        if aggregators is None:
            self._rounds: Rounds = self._masked(found, convener or found.identity(name), trust, sparse, convener)
            if clip is not None or bounded is not None:
                raise RuleError("clip= and bounded= are for rules on shares; name aggregators for them.")
        else:
            if least < 1:
                raise ConfigurationError(f"A result of at least {least} clients; give a number from 1 on.")
            rules = Rules(self._rule, self._limits, clip, bounded, least)
            rules.update(least)
            if isinstance(aggregators, InServerApp):
                self._rounds = LocalRounds(aggregators, rules)
            else:
                self._rounds = NetworkedRounds(aggregators, found.identity(name), rules)

    def _masked(
        self, keys: Keys, convener: Signer, trust: Trust | None, sparse: bool, other: Signer | None
    ) -> MaskedRounds:
        if self._rule.name not in MASKED:
            raise RuleError(
                f"The rule {self._rule.name!r} compares updates, and a single server that sees none cannot. Name "
                f"aggregators: Aggregators('alice@host:port', 'bob@host:port', provider=...); or use one of "
                f"{', '.join(MASKED)}."
            )
        if sparse and other is None:
            raise ConfigurationError(
                "With sparse=True whoever convenes rounds can choose who has masks in common with whom; the server "
                "must not. Give a convener of its own, or leave sparse out."
            )
        return MaskedRounds(keys, convener, self._limits, trust, sparse, self._rule.name == "sum")

    def summary(self) -> None:
        """Log the settings."""
        tell(f"\t├──> Updates are hidden; rule: {self._rule.name}, by {type(self._rounds).__name__}")
        tell("\t├──> Figures: " + " | ".join(f"{what} {list(each)}" for what, each in self._figures.items()))
        self._inner.summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """As ``Strategy.start``; connections to aggregators are closed in the end."""
        try:
            return super().start(
                grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn
            )
        finally:
            self.close()

    def close(self) -> None:
        """Let go of connections and workers; for those who do not use ``start``."""
        self._rounds.close()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample nodes, do what comes before training, and give the messages that ask for it."""
        asked = list(self._inner.configure_train(server_round, arrays, config, grid))
        if not asked:
            return []
        key = self._inner.arrayrecord_key
        layout = Layout(model_in(asked[0], key))
        return self._begun("train", server_round, asked, grid, key, layout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Combine hidden updates, and let the wrapped strategy step the model."""
        done = self._finished("train", replies)
        if done is None:
            return None, None
        found, layout, reply = done
        assert layout is not None
        content = RecordDict({"metrics": self._metrics("train", found)})
        content[self._inner.arrayrecord_key] = layout.changed(found.update)
        arrays, metrics = self._inner.aggregate_train(server_round, [_instead(reply, content)])
        return None if arrays is None else layout.kept(arrays), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As ``configure_train``, for figures alone; without any to ask for, nobody is asked."""
        if not self._figures["evaluate"]:
            return []
        asked = list(self._inner.configure_evaluate(server_round, arrays, config, grid))
        return self._begun("evaluate", server_round, asked, grid, "", None) if asked else []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Combine hidden figures."""
        done = self._finished("evaluate", replies)
        if done is None:
            return None
        found, _, reply = done
        content = RecordDict({"metrics": self._metrics("evaluate", found)})
        return self._inner.aggregate_evaluate(server_round, [_instead(reply, content)])

    # ------------------------------------------------------------------------------------------------------- rounds

    def _begun(
        self, what: str, server_round: int, asked: list[Message], grid: Grid, key: str, layout: Layout | None
    ) -> list[Message]:
        meta = asked[0].metadata
        desk = Desk(grid, meta.message_type, meta.group_id or str(server_round), self._timeout)
        names = self._roster.names(desk, [message.metadata.dst_node_id for message in asked])
        weight = self._inner.weighted_by_key if self._rule.weighted else ""
        if isinstance(self._rounds, (LocalRounds, NetworkedRounds)) and not key:
            weight = ""
        wanted = Wanted(key, weight, self._figures[what], self._clamp)
        task = Task(wanted, 0 if layout is None else layout.size)
        try:
            round = self._rounds.round()
            orders = round.begin(desk, names, task)
        except (MaskingError, AggregationError, LostRoundError) as error:
            self._lost(error, desk)
            return []
        made = [added(each, orders[each.metadata.dst_node_id]) for each in asked if each.metadata.dst_node_id in orders]
        self._under_way[what] = _UnderWay(round, desk, layout, [*orders])
        return made

    def _finished(
        self, what: str, replies: Iterable[Message]
    ) -> tuple[results.Result, Layout | None, Message] | None:
        under_way = self._under_way.pop(what, None)
        if under_way is None:
            return None
        given = list(replies)
        try:
            found = under_way.round.finish(given)
        except (MaskingError, AggregationError, LostRoundError) as error:
            self._lost(error, under_way.desk)
            return None
        tell(f"{what}: {len(found.clients)} of {len(under_way.nodes)} nodes are in the result")
        return found, under_way.layout, next(each for each in given if each.has_content())

    def _lost(self, error: Exception, desk: Desk) -> None:
        for node, reason in [*desk.refused.items()][:5]:
            error.add_note(f"node {node}: {reason}")
        if not self._skip_lost:
            raise error
        warn(f"The round is lost, and the model stays as it is: {error}")

    def _metrics(self, what: str, found: results.Result) -> MetricRecord:
        figures = figures_of(found.figures, self._figures[what], self._limits.value)
        return MetricRecord({**figures, self._inner.weighted_by_key: found.weight})


def _instead(reply: Message, content: RecordDict) -> Message:
    """A reply with another content, for the wrapped strategy."""
    reply.content = content
    return reply


def _checked(figures: Mapping[str, float] | None) -> dict[str, float]:
    found = {name: float(limit) for name, limit in (figures or {}).items()}
    if not all(0 < limit < math.inf for limit in found.values()):
        raise ConfigurationError(f"The largest magnitudes of metrics are {found}; each is a positive number.")
    return found


def _require_whole(strategy: object) -> None:
    if not isinstance(strategy, FedAvg) or isinstance(strategy, _WHOLE):
        raise FlowerError(
            f"{type(strategy).__name__} needs every client's own update, and nobody has it here. Wrap FedAvg, "
            "FedAvgM, FedAdam, FedAdagrad, FedYogi or FedProx, and choose a rule: 'median', 'trimmed-mean', ..."
        )
