"""Stock optimizers at a worker: one request for all parameters, where each would need one.

The sums are those of torch's form for one tensor at a time, to the bit. Left out are options for which torch's
multi-tensor form makes new tensors or writes the gradients.
"""

from __future__ import annotations

from sharetorch.nn.optimizing import Group, step_together
from sharetorch.remote.pointer import PointerTensor

_OTHERWISE = ("weight_decay", "nesterov", "maximize", "differentiable")


@step_together
def _of_pointers(group: Group) -> bool:
    """Whether all parameters are at one worker and are written in place only."""
    parameters = group["params"]
    if not all(isinstance(p, PointerTensor) for p in parameters) or any(group[option] for option in _OTHERWISE):
        return False
    return len({id(p.handle.link) for p in parameters}) == 1
