"""Rules by name."""

from __future__ import annotations

from typing import Any

from sharetorch.fl.aggregation.errors import RuleError
from sharetorch.fl.aggregation.krum import Krum, MultiKrum
from sharetorch.fl.aggregation.ranks import Median, TrimmedMean
from sharetorch.fl.aggregation.rules import Mean, Rule, Sum, WeightedMean
from sharetorch.fl.aggregation.signs import SignVote
from sharetorch.fl.aggregation.trust import Trust

RULES: dict[str, type[Rule]] = {
    kind.name: kind for kind in (Sum, Mean, WeightedMean, Median, TrimmedMean, Krum, MultiKrum, SignVote, Trust)
}
"""Every rule by the name users give."""


def rule(name: str, **parameters: Any) -> Rule:
    """The rule of that name.

    Args:
        name: of ``RULES``.
        parameters: of the rule, as its class documents them.

    Raises:
        RuleError: there is no such rule, or it has no such parameters, or not of these values.
    """
    if name not in RULES:
        raise RuleError(f"There is no rule {name!r}; use one of {', '.join(map(repr, RULES))}.")
    try:
        return RULES[name](**parameters)
    except TypeError as error:
        raise RuleError(f"The rule {name!r} cannot be made with {sorted(parameters)}: {error}.") from error
