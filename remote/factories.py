"""``worker.remote.torch.zeros(2, 3)``: tensors made where they will be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sharetorch.remote import operators
from sharetorch.remote.messages import Execute, Made
from sharetorch.remote.node import Link
from sharetorch.remote.pointer import PointerTensor, pointer_to
from sharetorch.remote.requests import Operands

NAMES = (
    "arange", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm",
    "tril_indices", "triu_indices", "zeros",
)  # fmt: skip
"""Functions of torch that make tensors out of public arguments."""


class Remote:
    """What can be made at a worker.

    Attributes:
        torch: functions of torch.
    """

    def __init__(self, link: Link) -> None:
        self.torch = RemoteTorch(link)


class RemoteTorch:
    """Functions of torch that make tensors, run at a worker; ``tensor`` sends its values."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def tensor(self, data: Any, **options: Any) -> Any:
        """A tensor of these values at the worker."""
        made: Any = torch.tensor(data, **options)
        return made.send(self._link.worker)

    def __getattr__(self, name: str) -> Callable[..., PointerTensor]:
        if name not in NAMES:
            raise AttributeError(f"torch.{name} cannot make a tensor at a worker; {', '.join(NAMES)} and tensor can.")
        function = getattr(torch, name)

        def make(*args: Any, requires_grad: bool = False, **kwargs: Any) -> PointerTensor:
            with _Elsewhere(self._link):
                made: PointerTensor = function(*args, **kwargs)
            return made.requires_grad_(requires_grad)  # type: ignore[return-value]

        make.__name__ = name
        return make

    def __dir__(self) -> list[str]:
        return [*NAMES, "tensor"]


class _Elsewhere(TorchDispatchMode):
    """Runs every operation at a worker."""

    def __init__(self, link: Link) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._link = link

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = operators.known_as(func)
        operands = Operands(known, PointerTensor, args, kwargs)
        reply: Made = self._link.request(Execute(known.name, operands.packed, operands.named))
        operands.link = self._link
        return operands.result(reply.results[0], pointer_to)
