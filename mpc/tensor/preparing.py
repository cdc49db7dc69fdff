"""``session.prepare(step, x, y)``: the provider does its part of a program before the parties run it.

The program is called on stand-ins that have layouts and no values, so that only the provider's coroutines run
(``mpc.preparing``). Arguments stand for tensors that were never used, as every new batch is; everything else that the
program reaches is as it is. What the program changes in Python on the way (gradients, states of optimizers, buffers of
modules) is put back.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import CorrelationReusedError, PreparationError
from sharetorch.mpc.preparing import Ahead, Block, Run
from sharetorch.mpc.session import Session, new_id, preparations
from sharetorch.mpc.tensor import nested, prepared_files
from sharetorch.mpc.tensor.constants import Constant
from sharetorch.mpc.tensor.shared import Handle, Mark, SharedTensor


class PreparedUnusedWarning(UserWarning):
    """A program took another course than the one that was prepared, so some of it was dealt for anew."""


class Prepared:
    """Correlated randomness for coming runs of a program, each of which takes its part once.

    Use it as ``with prepared: program(x, y)``. Inside the block every command that is like the next one of the prepared
    run takes what was made for it; others are dealt for as always, beside it. At the end of the block what is left of
    the run is given up.

    Attributes:
        session: whose it is.
        runs: how many are left.
        bytes: of corrections held for them.
    """

    def __init__(self, session: Session, block: Block) -> None:
        self.session = session
        self._block = block
        self._run: Run | None = None
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"<Prepared for {self.session!r}: {self.runs} runs left>"

    @property
    def runs(self) -> int:
        """How many runs are left."""
        return self._block.left

    @property
    def bytes(self) -> int:
        """Bytes of corrections held for the runs that are left."""
        return self._block.dealt

    def __enter__(self) -> Prepared:
        """Begin a run.

        Raises:
            CorrelationReusedError: all runs are used.
            PreparationError: the session prepares, or another run has not ended.
        """
        self.session.require_idle()
        self._run = self._block.begin()
        self._stack.enter_context(self.session.taking(self._run))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run: what it did not use is given up."""
        run, self._run = self._run, None
        try:
            self._stack.__exit__(kind, error, trace)
        finally:
            self._block.release()
        if kind is None and run is not None and run.beside and run.left:
            warnings.warn(
                f"{run.beside} commands were dealt for anew, and {run.left} of {run.left + run.used} that were "
                f"prepared not used: {run.reason}. Prepare with tensors like those of the real run, and the same "
                "program.",
                PreparedUnusedWarning,
                stacklevel=2,
            )

    def save(self, path: str | PathLike[str]) -> None:
        """Move the runs that are left to an encrypted file, for this session in this process to load again.

        The key is made with the first file and kept in memory only: when the session is over, its files are noise. The
        parties' secrets are not in the file. Nothing is left to use here.

        Args:
            path: of the file. Where the members are on other machines, the provider writes it, into its state folder,
                and this is a name without folders.

        Raises:
            CorrelationReusedError: there are no runs left.
            PreparationError: a run has not ended, there is such a file, it cannot be written, or a provider on another
                machine has no state folder.
        """
        if self._run is not None:
            raise PreparationError("A run that takes what was prepared has not ended. Save outside of the block.")
        if not self.runs:
            raise CorrelationReusedError("Everything that was prepared here has been used or saved; prepare anew.")
        prepared_files.vault_of(self.session).save(self._block, Path(path))
        self._block = Block([])


def prepare(
    session: Session, program: Callable[..., Any], example_inputs: tuple[Any, ...], count: int, max_bytes: int
) -> Prepared:
    """As ``Session.prepare``."""
    if count < 1:
        raise PreparationError(f"count={count}: prepare for at least one run.")
    for x in nested.tensors(example_inputs):
        x.handle.number  # noqa: B018 (gives a command that waits)
    with session.dealing_ahead(max_bytes) as ahead, _kept(session):
        for _ in range(count):
            ahead.block.next_run()
            result = program(*_Standing(session, ahead).all(example_inputs))
            session.sync()
            del result
    return Prepared(session, ahead.block)


def load(session: Session, path: str | PathLike[str]) -> Prepared:
    """As ``Session.load_prepared``."""
    return Prepared(session, prepared_files.vault_of(session).load(Path(path)))


preparations.prepare, preparations.load = prepare, load


class _Standing:
    """Stand-ins for arguments."""

    def __init__(self, session: Session, ahead: Ahead) -> None:
        self._session = session
        self._numbers: dict[int, int] = {}
        self._ahead = ahead

    def all(self, arguments: tuple[Any, ...]) -> list[Any]:
        """The arguments, shared tensors of the session replaced."""
        made: list[Any] = nested.mapped(list(arguments), self._replace)
        self._ahead.stand_in(self._numbers)
        return made

    def _replace(self, value: Any) -> Any:
        if isinstance(value, SharedTensor):
            own = value.session is self._session and not isinstance(value, torch.nn.Parameter)
            return self._stand_in(value) if own else value
        return value

    def _stand_in(self, x: SharedTensor) -> SharedTensor:
        number = new_id()
        self._numbers[number] = x.handle.number
        made = SharedTensor(Handle(self._session, number, x.encoding), x.shadow, x.requires_grad)
        made.mark = Mark(x.bits) if x.mark is not None else None
        return made


class _Tensor(NamedTuple):
    """What a program may change of a shared tensor."""

    tensor: SharedTensor
    handle: Handle
    grad: Tensor | None
    mark: Mark | None
    bits: bool
    constant: tuple[float | None, int | None] | None

    def put_back(self) -> None:
        """Undo it."""
        if self.constant is not None and isinstance(self.handle, Constant):
            self.handle.value, self.handle._number = self.constant
        if self.tensor.is_leaf and self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad
        self.tensor.mark = self.mark
        if self.mark is not None:
            self.mark.bits = self.bits


class _Dictionary:
    """The entries of a dictionary, with those of dictionaries below, and the values of plain tensors."""

    def __init__(self, dictionary: dict[Any, Any]) -> None:
        self._dictionary = dictionary
        self._entries = dict(dictionary)
        self._below = [_Dictionary(value) for value in dictionary.values() if isinstance(value, dict)]
        plain = [value for value in dictionary.values() if isinstance(value, Tensor) and not _is_shared(value)]
        self._plain = [(value, value.detach().clone()) for value in plain]

    def put_back(self) -> None:
        """Restore everything."""
        self._dictionary.clear()
        self._dictionary.update(self._entries)
        for below in self._below:
            below.put_back()
        with torch.no_grad():
            for value, before in self._plain:
                value.copy_(before)


@contextmanager
def _kept(session: Session) -> Iterator[None]:
    """Put back what a program changes in Python: shared tensors, optimizers, buffers, the state of dropout."""
    tensors, states = _found(session)
    kept = [_Dictionary(state) for state in states]
    drawn = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(drawn)
        for state in kept:
            state.put_back()
        for tensor in tensors:
            tensor.put_back()
    if any(kept.tensor.handle is not kept.handle for kept in tensors):
        raise PreparationError(
            "A program that is prepared must not change the shape of a tensor in place (t_(), squeeze_() and the "
            "like), for that cannot be undone. Use the form that returns a new tensor, and share this one again."
        )


_KINDS = (SharedTensor, torch.optim.Optimizer, torch.nn.Module)


def _found(session: Session) -> tuple[list[_Tensor], list[dict[Any, Any]]]:
    """All shared tensors of a session, and dictionaries in which optimizers and modules keep what a step changes.

    A program reaches what it changes in ways that nobody can follow, so everything that is alive is looked at.
    """
    tensors: list[_Tensor] = []
    states: list[dict[Any, Any]] = []
    kinds: dict[type, type | None] = {}
    for x in gc.get_objects():
        own = type(x)
        if own not in kinds:
            kinds[own] = next((kind for kind in _KINDS if issubclass(own, kind)), None)
        kind = kinds[own]
        if kind is None:
            continue
        if kind is SharedTensor:
            if _is_shared(x) and x.session is session:
                tensors.append(_noted(x))
        elif kind is torch.nn.Module:
            states += _buffers(x)
        else:
            states += _optimizer_states(x)
    return tensors, states


def _noted(x: SharedTensor) -> _Tensor:
    handle = x.handle
    constant = (handle.value, handle._number) if isinstance(handle, Constant) else None
    return _Tensor(x, handle, x.grad if x.is_leaf else None, x.mark, x.bits, constant)


def _is_shared(x: Any) -> bool:
    return issubclass(type(x), SharedTensor) and hasattr(x, "handle")


def _optimizer_states(optimizer: Any) -> list[dict[Any, Any]]:
    groups = list(getattr(optimizer, "param_groups", ()))
    if any(_is_shared(parameter) for group in groups for parameter in group["params"]):
        return [optimizer.state, *groups]
    return []


def _buffers(module: Any) -> list[dict[Any, Any]]:
    buffers, parameters = (module.__dict__.get(name) or {} for name in ("_buffers", "_parameters"))
    shared = any(_is_shared(part) for part in (*buffers.values(), *parameters.values()))
    return [buffers] if buffers and shared else []
