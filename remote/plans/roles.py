"""``func2protocol``: one function written for several parties, called roles.

    @st.func2protocol(roles=["alice", "bob"])
    def protocol(alice, bob):
        x = alice.torch.tensor([1.0])
        y = x.send(bob.worker) * 2
        return x, y.get()

    protocol()                              {"alice": (tensor([1.]), tensor([2.]))}
    protocol(alice=alice, bob=bob)          the same with pointers, computed at these workers

The function runs once, on stand-ins, and each role gets its list of actions. Running a protocol repeats the actions:
here if no workers are named, else each at the worker where its tensors are.
"""

from __future__ import annotations

import copy as copying
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import MembersError, PlanError
from sharetorch.remote.factories import NAMES
from sharetorch.remote.plans.state import State

_MOVES = {"send", "move", "remote_send", "send_", "move_"}
_RETURNS = {"get", "get_"}
_STAYS = {"remote_get", "mid_get"}
_OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": operator.add, "__sub__": operator.sub, "__mul__": operator.mul, "__truediv__": operator.truediv,
    "__matmul__": operator.matmul, "__pow__": operator.pow, "__neg__": operator.neg, "__getitem__": operator.getitem,
    "__eq__": operator.eq, "__ne__": operator.ne, "__lt__": operator.lt, "__le__": operator.le, "__gt__": operator.gt,
    "__ge__": operator.ge, "__radd__": lambda x, y: y + x, "__rsub__": lambda x, y: y - x,
    "__rmul__": lambda x, y: y * x, "__rtruediv__": lambda x, y: y / x,
}  # fmt: skip


class Action(NamedTuple):
    """One thing a role does.

    Attributes:
        name: such as "torch.tensor", "__add__" or "send".
        result: number of the value it makes.
        function: what runs, on tensors or pointers; None for moves between workers.
        args: values of the protocol as ``RoleTensor``, workers of roles as ``RoleWorker``.
        kwargs: likewise.
    """

    name: str
    result: int
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class RoleWorker(NamedTuple):
    """Stands for the worker of a role."""

    role: str


class Role:
    """A party of a protocol, while the function is recorded.

    Attributes:
        name: of the role.
        worker: stands for the role's worker, in ``x.send(bob.worker)``.
        torch: functions of torch that make tensors at the role.
        actions: what the role does, in order.
        state: its own tensors.
    """

    def __init__(self, name: str, state: Iterable[Tensor], recorder: _Recorder) -> None:
        self.name = name
        self.worker = RoleWorker(name)
        self.actions: list[Action] = []
        self.state = State(state)
        self.torch = _RoleTorch(self)
        self._recorder = recorder

    def load_state(self) -> tuple[RoleTensor, ...]:
        """The role's own tensors."""
        return tuple(self.load(tensor, "state") for tensor in self.state)

    def load(self, tensor: Tensor, name: str = "load") -> RoleTensor:
        """A tensor that the role has from the start."""
        made = RoleTensor(self._recorder.number(), self)
        self._recorder.given[made.number] = (self.name, tensor)
        return made

    def record(self, name: str, function: Callable[..., Any] | None, args: Any, kwargs: dict[str, Any]) -> RoleTensor:
        """Write down an action; gives the stand-in of its result."""
        made = RoleTensor(self._recorder.number(), self)
        action = Action(name, made.number, function, tuple(args), kwargs)
        self.actions.append(action)
        self._recorder.order.append((self.name, action))
        return made

    def __repr__(self) -> str:
        return f"<Role {self.name} actions:{len(self.actions)}>"


class _RoleTorch:
    def __init__(self, role: Role) -> None:
        self._role = role

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in (*NAMES, "tensor"):
            raise AttributeError(f"torch.{name} cannot make a tensor at a role; {', '.join(NAMES)} and tensor can.")
        return lambda *args, **kwargs: self._role.record(f"torch.{name}", None, args, kwargs)


class RoleTensor:
    """Stands for a tensor of a role while the function is recorded.

    Attributes:
        number: of the value in the protocol.
        role: whose it is.
    """

    def __init__(self, number: int, role: Role) -> None:
        self.number = number
        self.role = role

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A function of torch becomes an action of the role of its first stand-in."""
        role = next(arg.role for arg in _flat((args, kwargs or {})))
        return role.record(f"torch.{func.__name__}", func, args, kwargs or {})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        function = None if name in _MOVES | _RETURNS | _STAYS else operator.methodcaller
        return lambda *args, **kwargs: self.role.record(name, function, (self, *args), kwargs)

    def __iter__(self) -> Any:
        raise PlanError(
            "A tensor of a role has no values while the protocol is recorded; index it instead of iterating."
        )

    def __bool__(self) -> bool:
        raise PlanError(
            "A tensor of a role has no values while the protocol is recorded; use torch.where instead of if."
        )

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<RoleTensor {self.number} of {self.role.name}>"


def _operator_method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: RoleTensor, *args: Any) -> RoleTensor:
        return self.role.record(name, function, (self, *args), {})

    return method


for _name, _function in _OPERATORS.items():
    setattr(RoleTensor, _name, _operator_method(_name, _function))


def _flat(value: Any) -> Iterable[RoleTensor]:
    if isinstance(value, RoleTensor):
        yield value
    elif isinstance(value, (list, tuple)) and not isinstance(value, RoleWorker):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))


class _Recorder:
    """Numbers the values, and keeps all actions in order."""

    def __init__(self) -> None:
        self.order: list[tuple[str, Action]] = []
        self.given: dict[int, tuple[str, Tensor]] = {}
        self._next = 0

    def number(self) -> int:
        """A number nobody has."""
        self._next += 1
        return self._next


class RoleProtocol:
    """A recorded function of roles; see the module.

    Attributes:
        name: of the function.
        roles: by name.
        is_built: whether it is recorded.
        forward: the function; None once it is no longer needed.
    """

    def __init__(
        self, function: Callable[..., Any], roles: Iterable[str], states: Mapping[str, Iterable[Tensor]]
    ) -> None:
        self.name = function.__name__
        self.forward: Callable[..., Any] | None = function
        self._names = list(roles)
        self._states = dict(states)
        unknown = sorted(set(self._states) - set(self._names))
        if unknown or len(set(self._names)) < len(self._names) or not self._names:
            raise MembersError(
                f"Roles are {', '.join(self._names) or 'missing'}; states are for {', '.join(self._states) or 'none'}."
            )
        self.is_built = False

    def build(self) -> RoleProtocol:
        """Record the function. Returns the protocol itself."""
        if self.forward is None:
            raise PlanError(f"{self.name} has no function to build from.")
        recorder = _Recorder()
        self.roles = {name: Role(name, self._states.get(name, ()), recorder) for name in self._names}
        results = self.forward(**self.roles)
        self._results = list(results) if isinstance(results, (tuple, list)) else [results]
        if not all(isinstance(result, RoleTensor) for result in self._results):
            raise PlanError(f"{self.name} must give tensors of its roles.")
        self._recorder = recorder
        self.is_built = True
        return self

    def __call__(self, **workers: Any) -> dict[str, tuple[Any, ...]]:
        """Repeat the actions.

        Args:
            workers: a worker for each role; none to compute here.

        Returns:
            For each role with results, its results: tensors, or pointers to where they are.

        Raises:
            MembersError: workers for some roles only.
        """
        if workers and set(workers) != set(self._names):
            raise MembersError(f"One worker for each role: {', '.join(self._names)}; given for {', '.join(workers)}.")
        values = _Values(workers)
        for number, (role, tensor) in self._recorder.given.items():
            values.give(number, role, tensor)
        for role, action in self._recorder.order:
            values.run(role, action)
        found: dict[str, tuple[Any, ...]] = {}
        for result in self._results:
            found[result.role.name] = (*found.get(result.role.name, ()), values.known[result.number])
        return found

    run = __call__

    def copy(self) -> RoleProtocol:
        """A second protocol with the same actions."""
        return copying.copy(self)

    def __repr__(self) -> str:
        lines = [f"<Protocol {self.name}{' built' if self.is_built else ''}>"]
        return "\n".join([*lines, *(f" - {role!r}" for role in self.roles.values())])


class _Values:
    """The values of one run: tensors here, or pointers to them at the workers of the roles."""

    def __init__(self, workers: Mapping[str, Any]) -> None:
        self._workers = workers
        self.known: dict[int, Any] = {}

    def give(self, number: int, role: str, tensor: Tensor) -> None:
        """A tensor that a role has from the start."""
        sent: Any = tensor
        self.known[number] = sent.send(self._workers[role]) if self._workers else tensor

    def run(self, role: str, action: Action) -> None:
        """One action."""
        args = [self._filled(arg) for arg in action.args]
        kwargs = {name: self._filled(value) for name, value in action.kwargs.items()}
        self.known[action.result] = self._result(role, action, args, kwargs)

    def _result(self, role: str, action: Action, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if action.name in _MOVES:
            return self._moved(args[0], args[1])
        if action.name in _RETURNS:
            return self._moved(args[0], self._workers.get(role))
        if action.name in _STAYS:
            return args[0]
        if action.function is operator.methodcaller:
            return getattr(args[0], action.name)(*args[1:], **kwargs)
        if action.function is not None:
            return action.function(*args, **kwargs)
        space = self._workers[role].remote.torch if self._workers else torch
        return getattr(space, action.name.removeprefix("torch."))(*args, **kwargs)

    def _moved(self, value: Any, worker: Any) -> Any:
        """A copy of a value at another worker."""
        if not self._workers or value.location is worker:
            return value
        return value.forwarded(worker, remove=False)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, RoleTensor):
            return self.known[value.number]
        if isinstance(value, RoleWorker):
            return self._workers.get(value.role)
        if isinstance(value, (list, tuple)):
            return type(value)(self._filled(part) for part in value)
        return value


def func2protocol(
    roles: Iterable[str] = (), args_shape: Any = None, states: Mapping[str, Iterable[Tensor]] | None = None
) -> Callable[[Callable[..., Any]], RoleProtocol]:
    """Make a protocol of a function of roles.

    Args:
        roles: names of the function's arguments.
        args_shape: accepted for the tutorials' sake; shapes follow from the tensors.
        states: tensors that a role has from the start, by role; the function has them from ``role.load_state()``.

    Returns:
        A decorator that gives a ``RoleProtocol``, recorded at once.
    """

    def decorate(function: Callable[..., Any]) -> RoleProtocol:
        return RoleProtocol(function, roles, states or {}).build()

    return decorate
