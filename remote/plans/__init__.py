"""Plans: functions recorded as graphs of aten operations, sent once as data and run by one message.

forms       nested arguments and results as plain data
graph       the data form: inputs, state, nodes, output, and its version
numbers     arithmetic on sizes and other numbers inside a graph
checking    every node against the worker's list and torch's schemas
cleaning    leaving out what a graph does not need
secure      operations on shared tensors
running     the interpreter
listing     a graph as readable text
examples    what a plan is to be built for
captured    names of the tensors a function uses
optimizers  state of torch's optimizers, made before recording
recording   what recording starts from and gives
tracing     recording, by PyTorch's own ``make_fx``
state       what a plan keeps between calls
plan        ``Plan`` and ``func2plan``
pointer     ``PointerPlan``
serving     how a node runs plans and protocols
exported    programs of ``torch.export`` and TorchScript
protocol    plans at several workers, one after the other
roles       functions written for several parties at once
"""

from sharetorch.mpc.errors import PlanShapeError
from sharetorch.remote.plans.exported import plan_of
from sharetorch.remote.plans.placeholder import PlaceHolder
from sharetorch.remote.plans.plan import Plan, func2plan
from sharetorch.remote.plans.pointer import PlanPointers, PointerPlan
from sharetorch.remote.plans.protocol import PointerProtocol, Protocol
from sharetorch.remote.plans.roles import Role, RoleProtocol, func2protocol
from sharetorch.remote.plans.state import State
from sharetorch.remote.plans.translation import TranslationTarget

__all__ = [
    "PlaceHolder",
    "Plan",
    "PlanPointers",
    "PlanShapeError",
    "PointerPlan",
    "PointerProtocol",
    "Protocol",
    "Role",
    "RoleProtocol",
    "State",
    "TranslationTarget",
    "func2plan",
    "func2protocol",
    "plan_of",
]
