"""Gradients clipped record by record, with discrete Gaussian noise: opacus' optimizer on integers.

opacus gives the gradient of every record; what is done with them here is done on a grid, so that no floating-point
number rounds where privacy is decided. With C the clip, the grid's unit is u = C / 2^20:

1. A record's gradient, over all parameters together, is scaled to length at most C and rounded to the grid: integers of
   length at most D = 2^20 + 1 + ceil(sqrt(d) / 2) for d parameters.
2. They are added up, exactly.
3. Each coordinate gets a discrete Gaussian integer of standard deviation z D, from a stream nobody else has.
4. The result times u is the gradient, divided by the expected number of records in a batch.

opacus' own noise is torch's, from a Mersenne Twister; its secure mode wants the package torchcsprng, which has no
release for current versions of torch, and continuous noise in floating point. Neither is used.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from sharetorch.fl.privacy.accounting import opacus
from sharetorch.fl.privacy.errors import NoiseError
from sharetorch.mpc.discrete_gaussian import LARGEST_DEVIATION, discrete_gaussian
from sharetorch.mpc.randomness import fresh_stream

_opacus = opacus("optimizers.optimizer")
GRID_BITS = 20


def record_sensitivity(parameters: int) -> int:
    """Largest length of a record's gradient, in units of the grid: D of the module's docstring."""
    return (1 << GRID_BITS) + 1 + (math.isqrt(parameters) + 2) // 2


class PrivateOptimizer(_opacus.DPOptimizer):  # type: ignore[misc, name-defined]
    """``DPOptimizer`` with exact sums and discrete noise, for the parameters of a ``GradSampleModule``.

    Args:
        optimizer: steps with the noisy gradients.
        multiplier: standard deviation of the noise over the sensitivity.
        clip: largest length of a record's gradient.
        expected: number of records in a batch, on the average.

    Raises:
        NoiseError: more noise than can be drawn.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, multiplier: float, clip: float, expected: float) -> None:
        super().__init__(optimizer, noise_multiplier=multiplier, max_grad_norm=clip, expected_batch_size=expected)
        self._unit = clip / (1 << GRID_BITS)
        units = Fraction(multiplier) * record_sensitivity(sum(p.numel() for p in self.params))
        if units >= LARGEST_DEVIATION:
            raise NoiseError(f"A noise multiplier of {multiplier:g} is more than can be drawn; take one up to 200.")
        self._distribution = discrete_gaussian(units**2)
        self._stream = fresh_stream()

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on the sum of a batch's gradients."""
        return math.sqrt(self._distribution.parameter) * self._unit

    def clip_and_accumulate(self) -> None:
        """Steps 1 and 2: integers into ``summed_grad``."""
        samples = [sample.double().flatten(1) for sample in self.grad_samples]
        squares = torch.stack([sample.square().sum(dim=1) for sample in samples]).sum(dim=0)
        factors = (self.max_grad_norm / squares.sqrt()).nan_to_num(nan=0.0, posinf=1.0).clamp(max=1.0)
        for p, sample in zip(self.params, samples, strict=True):
            _opacus._check_processed_flag(p.grad_sample)
            scaled = (sample.nan_to_num(0.0, 0.0, 0.0) * (factors / self._unit).unsqueeze(1)).round()
            total = scaled.sum(dim=0).to(torch.int64).view(p.shape)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total
            _opacus._mark_as_processed(p.grad_sample)

    def add_noise(self) -> None:
        """Steps 3 and 4, but for the division."""
        for p in self.params:
            _opacus._check_processed_flag(p.summed_grad)
            p.grad = ((p.summed_grad + self._drawn(p.shape)).double() * self._unit).to(p.dtype)
            _opacus._mark_as_processed(p.summed_grad)

    def _drawn(self, shape: torch.Size) -> Tensor:
        return torch.from_numpy(self._distribution.draw(self._stream, shape.numel())).view(shape)
