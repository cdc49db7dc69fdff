"""What a plan keeps between its calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from sharetorch.mpc.errors import PlanError
from sharetorch.remote.plans.placeholder import PlaceHolder


class State:
    """Tensors that belong to a plan, travel with it and may be changed by it.

    Args:
        state_placeholders: tensors, or ``PlaceHolder``s of them; a dictionary gives them names.
        names: of the tensors; numbered if not given.
    """

    def __init__(self, state_placeholders: Iterable[Any] = (), names: Iterable[str] | None = None) -> None:
        if isinstance(state_placeholders, dict):
            names = list(state_placeholders)
            state_placeholders = list(state_placeholders.values())
        self._tensors = [_tensor(given) for given in state_placeholders]
        self.names = [f"state.{place}" for place in range(len(self._tensors))] if names is None else list(names)

    def read(self, name: str | None = None) -> Any:
        """The tensors, in order: ``(bias,) = state.read()``; or the one of a name."""
        return tuple(self._tensors) if name is None else self.named()[name]

    def tensors(self) -> list[Tensor]:
        """The tensors, in order."""
        return list(self._tensors)

    @property
    def state_placeholders(self) -> list[PlaceHolder]:
        """The tensors, each in a ``PlaceHolder``."""
        return [PlaceHolder().instantiate(tensor) for tensor in self._tensors]

    def named(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(zip(self.names, self._tensors, strict=True))

    def __iadd__(self, names: Iterable[str]) -> State:
        """Accepted for the tutorials' sake: ``self.state += ["fc1"]`` adds layers that are state already."""
        return self

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<State: {', '.join(self.names) or 'nothing'}>"


def _tensor(given: Any) -> Tensor:
    tensor = given.child if isinstance(given, PlaceHolder) else given
    if not isinstance(tensor, Tensor):
        raise PlanError(f"The state of a plan is made of tensors; a {type(tensor).__name__} was given.")
    return tensor
