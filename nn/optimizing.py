"""Stock optimizers step all parameters at once where that is cheaper: their multi-tensor form, if the user chose none.

Which parameters gain is said by whoever knows their class: ``step_together``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sharetorch.mpc.tensor.shared import SharedTensor

Group = dict[str, Any]
"""One of an optimizer's ``param_groups``."""

_BY_US = "sharetorch chose foreach"
"""Key in the groups whose form was chosen here, until the step is over."""

_gainful: list[Callable[[Group], bool]] = []


def step_together(gains: Callable[[Group], bool]) -> Callable[[Group], bool]:
    """Let SGD take its multi-tensor form for the groups of which ``gains`` is true; results must be the same."""
    _gainful.append(gains)
    return gains


@step_together
def _of_shares(group: Group) -> bool:
    """One command for all shared tensors, where each would need several."""
    return any(isinstance(p, SharedTensor) for p in group["params"])


def _before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if type(optimizer) is not SGD:
        return
    for group in optimizer.param_groups:
        if group["foreach"] is None and any(gains(group) for gains in _gainful):
            group["foreach"], group[_BY_US] = True, True


def _after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        if group.pop(_BY_US, False):
            group["foreach"] = None


register_optimizer_step_pre_hook(_before)
register_optimizer_step_post_hook(_after)
