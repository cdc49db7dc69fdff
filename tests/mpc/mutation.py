"""Deliberately broken copies of library functions, to show that a check notices."""

import __future__

import inspect
import textwrap
from types import FunctionType, ModuleType

import pytest

_FLAGS = __future__.annotations.compiler_flag


def plant(monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str, correct: str, wrong: str) -> None:
    """Replace one function of a module, for this test, by a copy in which ``correct`` reads ``wrong``.

    Raises:
        ValueError: the source does not hold ``correct`` exactly once, so the mutant has to be written anew.
    """
    source = textwrap.dedent(inspect.getsource(getattr(module, function)))
    if source.count(correct) != 1:
        raise ValueError(f"{module.__name__}.{function} holds {correct!r} {source.count(correct)} times, not once.")
    scratch: dict[str, FunctionType] = {}
    exec(compile(source.replace(correct, wrong), "<mutant>", "exec", _FLAGS), module.__dict__, scratch)
    monkeypatch.setattr(module, function, scratch[function])
