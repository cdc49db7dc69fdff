"""Torch's functions on pointers give what they give here, or are refused in words: never another result.

The functions and their arguments are torch's own: the collection with which torch tests itself.
"""

import functools
import random
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharetorch import VirtualWorker
from sharetorch.remote.pointer import PointerTensor
from tests.remote.tools import SAMPLES, Case, call, cases, tensors, verdict

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    internals = pytest.importorskip(
        "torch.testing._internal.common_methods_invocations",
        reason="torch's own test samples are not part of this installation of torch, or need the package expecttest",
        exc_type=ImportError,
    )

UNDETERMINED = {"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "empty_permuted"}
"""Functions whose values mean nothing here; at a worker they are zeros."""

ILL_POSED = {"linalg.eig"}
"""Torch refuses gradients that depend on the phase of eigenvectors by looking at values: not seen from here."""

ALL = [case for case in cases(internals.op_db) if case.op.name not in UNDETERMINED | ILL_POSED]
SEED = 20
RUNS, AT_ONCE = 11, 60
"""Draws, and functions in each."""

CLOSE = 0.03
"""Share of cases that may differ in the last bits: derivative rules of torch take another order for tensors without
data."""

REFUSED = 0.12
"""Share of cases that may be refused: functions that look at values, or make local tensors on the way."""


@pytest.fixture
def bob():
    return VirtualWorker(id="bob_against_torch")


def outcomes(chosen: list[Case], bob: VirtualWorker):
    """Every case with one of its samples, and how it went."""
    draw = random.Random(SEED)
    for case in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                samples = [s for s in case.samples() if tensors((s.input, list(s.args), s.kwargs))]
            except Exception:  # some samples of torch's own need what is not installed
                continue
        if samples:
            sample, seed = draw.choice(samples), draw.randrange(1 << 30)
            here, there = call(case, sample, lambda x: x, seed), call(case, sample, lambda x: x.send(bob), seed)
            yield case, verdict(here, there)


@functools.cache
def samples_of(place: int) -> list[Any]:
    """Torch's own samples for a case, those with tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return [s for s in ALL[place].samples() if tensors((s.input, list(s.args), s.kwargs))]
        except Exception:  # some samples of torch's own need what is not installed
            return []


def test_never_another_result(bob):
    """At least 500 functions with arguments, chosen by hypothesis; the same ones in every run."""
    found: dict[tuple[int, int], str] = {}

    places = st.lists(st.sampled_from(range(len(ALL))), min_size=AT_ONCE, max_size=AT_ONCE, unique=True)

    @settings(max_examples=RUNS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(places=places, number=st.integers(0, SAMPLES - 1), seed=st.integers(0, 1 << 30))
    def check(places: list[int], number: int, seed: int) -> None:
        for place in places:
            samples = samples_of(place)
            if not samples:
                continue
            sample = samples[number % len(samples)]
            here = call(ALL[place], sample, lambda x: x, seed)
            there = call(ALL[place], sample, lambda x: x.send(bob), seed)
            how = found[place, number % len(samples)] = verdict(here, there)
            assert how in ("equal", "close", "refused", "fails in both"), f"{ALL[place]}: {how}"

    check()
    counts = Counter(found.values())
    assert len(found) >= 500, len(found)
    assert len({place for place, _ in found}) >= 400
    assert counts["close"] <= CLOSE * len(found), counts
    refused = sorted({ALL[place].op.name for (place, _), how in found.items() if how == "refused"})
    assert counts["refused"] <= REFUSED * len(found), refused
    assert counts["equal"] >= 0.75 * len(found), counts


def test_nothing_is_left_at_the_worker(bob):
    chosen = random.Random(SEED + 1).sample(ALL, 100)
    assert list(outcomes(chosen, bob))
    bob.clear_objects_remote()
    assert len(bob.objects) == 0
    assert bob.objects.bytes == 0


@pytest.mark.parametrize("name", ["empty_like", "new_empty"])
def test_memory_without_values_is_zero_at_a_worker(bob, name):
    x = torch.ones(4, 3).send(bob)
    made = torch.empty_like(x) if name == "empty_like" else x.new_empty(5)
    assert torch.equal(made.get(), torch.zeros((4, 3) if name == "empty_like" else 5))


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.rand_like(x),
        lambda x: torch.randn_like(x),
        lambda x: torch.bernoulli(x),
        lambda x: torch.nn.functional.dropout(x, 0.5),
        lambda x: torch.multinomial(x, 2),
        lambda x: x.clone().uniform_(),
        lambda x: x.clone().normal_(2.0, 3.0),
        lambda x: torch.poisson(x),
    ],
)
def test_a_virtual_worker_draws_from_the_generator_of_the_process(bob, draw):
    x = torch.rand(3, 4)
    torch.manual_seed(5)
    here = draw(x)
    torch.manual_seed(5)
    assert torch.equal(draw(x.send(bob)).get(), here)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.conj() * 2,
        lambda x: x.conj().real,
        lambda x: torch.fft.hfft(x),
        lambda x: (x.conj() @ x.mH).abs(),
        lambda x: x.conj().mul_(3) + x,
        lambda x: torch.conj_physical(x).imag,
    ],
)
def test_conjugates_are_not_forgotten(bob, function):
    """Inside of an operation torch passes over the bit that marks a conjugate: a worker must not compute there."""
    x = torch.randn(3, 3, dtype=torch.complex64)
    try:
        there = function(x.send(bob)).get()
    except ValueError as error:
        assert "conj_physical" in str(error)
    else:
        torch.testing.assert_close(there, function(x.clone()))


@pytest.mark.parametrize(
    "layer", [torch.nn.LSTM(3, 4), torch.nn.LSTM(3, 4, 2, bidirectional=True), torch.nn.GRU(3, 4)]
)
def test_recurrent_layers_learn_at_a_worker(bob, layer):
    x = torch.randn(5, 2, 3)
    layer(x)[0].square().sum().backward()
    here = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    layer.send(bob)
    layer(x.send(bob))[0].square().sum().backward()
    there = [parameter.grad.copy().get() for parameter in layer.parameters()]
    layer.get()
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(mine, other)


def test_an_operation_in_place_that_would_change_the_size_is_refused(bob):
    x = torch.ones(1).send(bob)
    with pytest.raises(ValueError, match="shape"):
        x.addbmm_(torch.ones(2, 3, 4).send(bob), torch.ones(2, 4, 5).send(bob))
    assert isinstance(x, PointerTensor)
    assert torch.equal(x.get(), torch.ones(1))
