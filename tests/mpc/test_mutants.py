"""Mistakes found in papers and other implementations, planted one at a time: the exhaustive checks must see each."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import kernels
from sharetorch.mpc.kernels import reference
from sharetorch.mpc.protocols import securenn, securenn_paper, truncation
from tests.mpc import exhaustive, mutation


class Mutant(NamedTuple):
    """One formula with one mistake, and the check that must fail."""

    module: ModuleType
    function: str
    correct: str
    wrong: str
    check: Callable[[], None]


def sign_of_securenn() -> None:
    exhaustive.check_non_negative(securenn.non_negative, 5)


convert = partial(exhaustive.check_share_convert, 4)
msb = partial(exhaustive.check_compute_msb, 4)
compare = partial(exhaustive.check_private_compare, 4)
thirds = partial(exhaustive.check_truncate, 5, 3)
exact_thirds = partial(exhaustive.check_truncate_exact, 5, 3)

MUTANTS = {
    "embedding without doubling": Mutant(securenn, "embed", "2 * a - 1 if rank == 0 else 2 * a", "a", sign_of_securenn),
    "embedding with -1 at both parties": Mutant(securenn, "embed", "if rank == 0 else 2 * a", "", sign_of_securenn),
    "DReLU* without +1 in the comparand": Mutant(
        securenn, "non_negative", "c + beta", "c + 0 * beta", sign_of_securenn
    ),
    "MSB without +1 in the comparand": Mutant(securenn_paper, "compute_msb", "c + beta", "c + 0 * beta", msb),
    "ShareConvert without the branch r = 0": Mutant(securenn_paper, "_at_least", "(r == 0)", "(r != r)", convert),
    "ShareConvert comparing with r": Mutant(securenn_paper, "_at_least", "r - np.uint64(1)", "r", convert),
    "theta with the sign of eta inverted": Mutant(
        securenn_paper,
        "share_convert",
        "odd_ring.add(delta, eta, bits)",
        "odd_ring.subtract(delta, eta, bits)",
        convert,
    ),
    "theta with the sign of delta inverted": Mutant(
        securenn_paper,
        "share_convert",
        "odd_ring.add(delta, eta, bits)",
        "odd_ring.subtract(eta, delta, bits)",
        convert,
    ),
    "theta with the sign of alpha inverted": Mutant(
        securenn_paper,
        "share_convert",
        "alpha.astype(np.uint64) + np.uint64(1)",
        "1 - alpha.astype(np.uint64)",
        convert,
    ),
    "theta without -1": Mutant(
        securenn_paper, "share_convert", "alpha.astype(np.uint64) + np.uint64(1)", "alpha.astype(np.uint64)", convert
    ),
    "PrivateCompare with the whitepaper's sign": Mutant(
        reference, "mask_symbols", "(rank * comparand - x)", "(x - rank * comparand)", compare
    ),
    "PrivateCompare without +1": Mutant(
        reference, "mask_symbols", "+ rank + higher_differences", "+ higher_differences", compare
    ),
    "PrivateCompare without the zero of ALWAYS": Mutant(
        reference, "mask_symbols", "certain[:, :1] = 0", "certain[:, :1] = rank", compare
    ),
    "truncation without the offset": Mutant(truncation, "remove_mask", "others + offset", "others", thirds),
    "truncation without the carry": Mutant(truncation, "_carry", "u + c_top if", "0 * u if", thirds),
    "exact truncation with the cases swapped": Mutant(
        truncation, "_select", "v.data[1] - v.data[0]", "v.data[0] - v.data[1]", exact_thirds
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.check()
    mutation.plant(monkeypatch, mutant.module, mutant.function, mutant.correct, mutant.wrong)
    with pytest.raises(AssertionError, match="wrong|errors"):
        mutant.check()


def test_a_missing_carry_in_the_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    combine = kernels.truncation_combine

    def without_carry(
        own: Tensor, others: Tensor, m: Tensor, t: Tensor, shift: int, bits: int, *, leader: bool
    ) -> Tensor:
        offset = 1 << (bits - 2)
        low = (own + others + offset) & ((1 << (bits - 1)) - 1)
        return combine(low, 0 * others - offset, m, 0 * t, shift, bits, leader=leader)

    monkeypatch.setattr(kernels, "truncation_combine", without_carry)
    with pytest.raises(AssertionError, match="errors"):
        exhaustive.check_truncate(5, 4)


def test_a_mutant_that_no_longer_applies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="0 times"):
        mutation.plant(monkeypatch, torch.utils, "rename_privateuse1_backend", "no such text", "")
