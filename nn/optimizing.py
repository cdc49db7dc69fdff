"""Stock optimizers step all shared parameters at once: their multi-tensor form, if the user has chosen none."""

from __future__ import annotations

from typing import Any

from torch.optim import SGD, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sharetorch.mpc.tensor.shared import SharedTensor

_BY_US = "sharetorch chose foreach"
"""Key in the groups whose form was chosen here, until the step is over."""


def _before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if type(optimizer) is not SGD:
        return
    for group in optimizer.param_groups:
        if group["foreach"] is None and any(isinstance(p, SharedTensor) for p in group["params"]):
            group["foreach"], group[_BY_US] = True, True


def _after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        if group.pop(_BY_US, False):
            group["foreach"] = None


register_optimizer_step_pre_hook(_before)
register_optimizer_step_post_hook(_after)
