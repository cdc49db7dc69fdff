"""Programs of ``torch.export`` and TorchScript as plans: their operations become a graph, their weights its state.

What is sent is a plan like any other. No code, and nothing that would have to be unpickled, reaches a worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sharetorch.mpc.errors import PlanError
from sharetorch.remote.plans.plan import Plan
from sharetorch.remote.plans.recording import Shape


def plan_of(
    program: Any, *args: Any, name: str | None = None, args_shape: Any = None, dtypes: Any = None, **kwargs: Any
) -> Plan:
    """A plan that does what a program does.

    Args:
        program: an ``ExportedProgram``, which knows its own shapes; a scripted or traced module or function, or any
            module, for which arguments are given.
        args: example tensors, whose shapes and dtypes the plan is for.
        name: of the plan.
        args_shape: shapes instead of examples, -1 for a size that is free.
        dtypes: of ``args_shape``.
        kwargs: keyword arguments of the program, as examples.

    Returns:
        A built plan. Its state are the program's own tensors, under their names.

    Raises:
        PlanError: it is no program, or cannot be recorded.
    """
    from torch.export import ExportedProgram

    if isinstance(program, ExportedProgram):
        if args or kwargs or args_shape is not None:
            raise PlanError("An exported program has its shapes already; no examples are needed.")
        return _of_exported(program, name or "exported")
    if not isinstance(program, nn.Module) and not callable(program):
        raise PlanError(
            f"A {type(program).__name__} is no program; torch.export, TorchScript and modules give programs."
        )
    plan = _wrapped(program, name or _name(program))
    return plan.build(*args, args_shape=args_shape, dtypes=dtypes, **kwargs)


def _name(program: Any) -> str:
    name: str = getattr(program, "original_name", None) or getattr(program, "name", None) or type(program).__name__
    return name


def _wrapped(program: Callable[..., Any], name: str) -> Plan:
    """A plan whose forward calls the program."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return program(*args, **kwargs)

    plan = Plan(name, forward)
    plan._sources = (program,) if isinstance(program, nn.Module) else ()
    return plan


def _of_exported(program: Any, name: str) -> Plan:
    wanted = set(program.graph_signature.user_inputs)
    shapes = [
        _shape(node.meta["val"]) for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted
    ]
    spec = program.call_spec.in_spec
    if spec is None or spec.num_leaves != len(shapes):
        raise PlanError(
            "An exported program with arguments that are no tensors and no numbers; export it with tensors."
        )
    args, kwargs = pytree.tree_unflatten(shapes, spec)
    options = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    return _wrapped(program.module(**options), name).build(*args, **kwargs)


def _shape(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return Shape(tuple(size if isinstance(size, int) else -1 for size in value.shape), value.dtype)
