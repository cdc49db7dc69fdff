"""Server optimizers: how the combined update of a round changes the global model.

The parameters are one float64 vector, and the update is the negative of a pseudo-gradient (Reddi et al. 2021, ICLR).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from sharetorch.mpc.errors import TrainingError


class Strategy(Protocol):
    """A server optimizer.

    Attributes:
        settings: its name and its numbers; a run is only resumed with the same ones.
        proximal: mu of the term that clients add to their loss, see ``local.train``; 0 for none.
    """

    @property
    def settings(self) -> dict[str, str | float]:
        """See above."""

    @property
    def proximal(self) -> float:
        """See above."""

    def step(self, parameters: Tensor, update: Tensor) -> Tensor:
        """The parameters after a round: float64, shape (size,), like both arguments, which stay as they are."""

    def state(self) -> dict[str, Tensor]:
        """What it keeps between rounds."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""


class FedAvg:
    """Add the update: x + lr * update (McMahan et al. 2017); with momentum, FedAvgM (Hsu, Qi and Brown 2019).

    It is torch's SGD on the pseudo-gradient.

    Args:
        lr: learning rate of the server.
        momentum: of the server.

    Raises:
        TrainingError: a number outside its range.
    """

    proximal = 0.0

    def __init__(self, lr: float = 1.0, momentum: float = 0.0) -> None:
        _require("lr", lr, lr > 0, "above 0")
        _require("momentum", momentum, 0 <= momentum < 1, "at least 0 and below 1")
        self._lr, self._momentum = lr, momentum
        self._buffer: Tensor | None = None

    @property
    def settings(self) -> dict[str, str | float]:
        """See ``Strategy``."""
        return {"strategy": "fedavg", "lr": self._lr, "momentum": self._momentum}

    def step(self, parameters: Tensor, update: Tensor) -> Tensor:
        """See ``Strategy``."""
        x = parameters.clone().requires_grad_()
        x.grad = -update
        optimizer = torch.optim.SGD([x], lr=self._lr, momentum=self._momentum)
        if self._buffer is not None:
            optimizer.state[x]["momentum_buffer"] = self._buffer
        optimizer.step()
        self._buffer = optimizer.state[x].get("momentum_buffer")
        return x.detach()

    def state(self) -> dict[str, Tensor]:
        """See ``Strategy``."""
        return {} if self._buffer is None else {"momentum": self._buffer}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Strategy``."""
        self._buffer = state.get("momentum")


class FedProx:
    """FedAvg whose clients are drawn towards the parameters the round began with (Li et al. 2020, MLSys).

    Args:
        mu: weight of the proximal term in the clients' loss.
        lr: learning rate of the server.

    Raises:
        TrainingError: a number outside its range.
    """

    def __init__(self, mu: float = 0.01, lr: float = 1.0) -> None:
        _require("mu", mu, mu >= 0, "at least 0")
        self._mu = mu
        self._server = FedAvg(lr)

    @property
    def proximal(self) -> float:
        """See ``Strategy``."""
        return self._mu

    @property
    def settings(self) -> dict[str, str | float]:
        """See ``Strategy``."""
        return {**self._server.settings, "strategy": "fedprox", "mu": self._mu}

    def step(self, parameters: Tensor, update: Tensor) -> Tensor:
        """See ``Strategy``."""
        return self._server.step(parameters, update)

    def state(self) -> dict[str, Tensor]:
        """See ``Strategy``."""
        return self._server.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Strategy``."""
        self._server.load_state(state)


class _Adaptive(ABC):
    """Algorithm 2 of Reddi et al. 2021: m = beta1 m + (1 - beta1) update, x + lr m / (sqrt(v) + tau).

    Without correction of the bias, and v begins at tau^2, as there; torch's Adam does neither, so it is not used.

    Args:
        lr: learning rate of the server, eta.
        betas: beta1 and beta2.
        tau: degree of adaptivity.

    Raises:
        TrainingError: a number outside its range.
    """

    proximal = 0.0

    def __init__(self, lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3) -> None:
        _require("lr", lr, lr > 0, "above 0")
        _require("tau", tau, tau > 0, "above 0")
        for number, beta in enumerate(betas, 1):
            _require(f"beta{number}", beta, 0 <= beta < 1, "at least 0 and below 1")
        self._lr, self._betas, self._tau = lr, betas, tau
        self._moments: tuple[Tensor, Tensor] | None = None

    @property
    @abstractmethod
    def _name(self) -> str:
        """Of the strategy."""

    @abstractmethod
    def _second(self, v: Tensor, square: Tensor, beta: float) -> Tensor:
        """The second moment after a round, given the square of the update."""

    @property
    def settings(self) -> dict[str, str | float]:
        """See ``Strategy``."""
        beta1, beta2 = self._betas
        return {"strategy": self._name, "lr": self._lr, "beta1": beta1, "beta2": beta2, "tau": self._tau}

    def step(self, parameters: Tensor, update: Tensor) -> Tensor:
        """See ``Strategy``."""
        m, v = self._moments or (torch.zeros_like(update), torch.full_like(update, self._tau**2))
        beta1, beta2 = self._betas
        m = beta1 * m + (1 - beta1) * update
        v = self._second(v, update.square(), beta2)
        self._moments = m, v
        return parameters + self._lr * m / (v.sqrt() + self._tau)

    def state(self) -> dict[str, Tensor]:
        """See ``Strategy``."""
        return {} if self._moments is None else {"m": self._moments[0], "v": self._moments[1]}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See ``Strategy``."""
        self._moments = (state["m"], state["v"]) if state else None


class FedAdam(_Adaptive):
    """v = beta2 v + (1 - beta2) update^2; the rest as ``_Adaptive`` says (Reddi et al. 2021)."""

    _name = "fedadam"

    def _second(self, v: Tensor, square: Tensor, beta: float) -> Tensor:
        return beta * v + (1 - beta) * square


class FedYogi(_Adaptive):
    """v = v - (1 - beta2) update^2 sign(v - update^2); the rest as ``_Adaptive`` says (Reddi et al. 2021)."""

    _name = "fedyogi"

    def _second(self, v: Tensor, square: Tensor, beta: float) -> Tensor:
        return v - (1 - beta) * square * torch.sign(v - square)


STRATEGIES: Mapping[str, Callable[[float | None, float], Strategy]] = {
    "fedavg": lambda lr, mu: FedAvg() if lr is None else FedAvg(lr),
    "fedprox": lambda lr, mu: FedProx(mu) if lr is None else FedProx(mu, lr),
    "fedadam": lambda lr, mu: FedAdam() if lr is None else FedAdam(lr),
    "fedyogi": lambda lr, mu: FedYogi() if lr is None else FedYogi(lr),
}
"""Strategies by name, given a learning rate of the server, None for the strategy's own, and mu of FedProx."""


def _require(name: str, value: float, holds: bool, range_: str) -> None:
    if not holds or not math.isfinite(value):
        raise TrainingError(f"{name} of the server is {value}; it must be {range_}.")
