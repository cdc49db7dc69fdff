"""Rounds of hidden updates, as federated training asks for them."""

import math

import numpy as np
import pytest
import torch

import sharetorch as st
from sharetorch.fl.aggregation import HiddenAggregator, Limits, Rule, TooFewClientsError, UploadError, rule
from sharetorch.mpc.errors import NotFiniteError
from tests.fl.aggregation.tools import updates

NAMES = ["ann", "ben", "cleo", "dan", "eve"]


def hidden(made: str | Rule, **options: object) -> HiddenAggregator:
    alice, bob, cp = (st.VirtualWorker(id=name) for name in ("alice", "bob", "crypto_provider"))
    limits = Limits(8.0, 5, weight=100)
    return HiddenAggregator(alice, bob, crypto_provider=cp, limits=limits, rule=made, **options)  # type: ignore[arg-type]


def test_one_round_after_the_other() -> None:
    made = hidden("median")
    for number in range(3):
        x = updates(5, 7, seed=number)
        made.begin(number, NAMES)
        for name, update in zip(NAMES, x, strict=True):
            made.add(name, update, 10.0)
        assert made.finish().tolist() == np.median(x.numpy(), axis=0).tolist()


def test_an_unfinished_round_is_forgotten() -> None:
    made, x = hidden("sum"), updates(2, 7)
    made.begin(1, NAMES)
    made.add("ann", x[0], 1.0)
    made.begin(2, NAMES)
    made.add("ann", x[1], 1.0)
    assert torch.equal(made.finish(), x[1])


def test_numbers_of_items_are_weights() -> None:
    made, x = hidden("weighted-mean"), updates(3, 7)
    made.begin(0, NAMES)
    for update, weight in zip(x, (1.0, 30.0, 500.0), strict=True):
        made.add("somebody", update, weight)
    expected = np.average(x.numpy(), axis=0, weights=[1, 30, 100])
    assert float((made.finish() - torch.from_numpy(expected)).abs().max()) < 2e-4


def test_clients_force_their_coordinates_into_the_range() -> None:
    made = hidden("sum")
    made.begin(0, NAMES)
    made.add("ann", torch.tensor([100.0, -100.0, 1.0]), 1.0)
    assert made.finish().tolist() == [8.0, -8.0, 1.0]


def test_what_goes_wrong() -> None:
    made = hidden("sum")
    made.begin(0, NAMES)
    with pytest.raises(TooFewClientsError):
        made.finish()
    with pytest.raises(NotFiniteError):
        made.add("ann", torch.tensor([math.nan, 0.0]), 1.0)
    made.add("ann", torch.zeros(2), 1.0)
    with pytest.raises(UploadError):
        made.add("ben", torch.zeros(3), 1.0)


def test_names_tell_rules_and_parameters_apart() -> None:
    rules = [rule("median"), rule("trimmed-mean", trim=0.1), rule("trimmed-mean", trim=0.2), rule("krum", byzantine=1)]
    rules += [rule("fltrust", trusted=torch.ones(3)), rule("fltrust", trusted=torch.ones(4))]
    names = {hidden(made).name for made in rules} | {hidden("median", clip=1.0).name}
    assert len(names) == 7
