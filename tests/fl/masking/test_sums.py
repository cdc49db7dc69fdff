"""The sum is exact over the survivors, whoever drops out, or the round ends with a typed error."""

import numpy as np
import pytest
import torch

from sharetorch.fl.masking import Limits, OutOfTurnError, Parameters, TooFewSurvivorsError, Trust, choose
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.fl.masking.simulation import Federation, aggregate
from sharetorch.mpc.errors import ConfigurationError, DivisionByZeroError, EncodingRangeError
from tests.fl.masking.federations import (
    ALONE,
    INTEGERS,
    begun,
    federation,
    replayed,
    require_exact,
    updates_of,
)

STEPS = [step for step in Step if step is not Step.OVER]


@pytest.mark.parametrize("members", range(2, 31))
def test_the_complete_graph_gives_the_exact_sum(members: int) -> None:
    found = federation(members, seed=members)
    updates = updates_of(found.identities, 3, members)
    opening = found.convene(3, INTEGERS)
    assert Round(opening).parameters == Parameters(members - 1, members // 2, 0)
    outcome = aggregate(found, opening, updates)
    require_exact(outcome.aggregate, updates, found.identities)
    assert not outcome.refused


@pytest.mark.parametrize(
    ("members", "parameters"),
    [
        (6, Parameters(4, 4, 1)),
        (9, Parameters(6, 5, 2)),
        (12, Parameters(8, 6, 1)),
        (20, Parameters(10, 8, 3)),
        (30, Parameters(6, 5, 1)),
        (30, Parameters(28, 20, 5)),
    ],
)
@pytest.mark.parametrize("length", [1, 5])
def test_a_sparse_graph_gives_the_exact_sum(members: int, parameters: Parameters, length: int) -> None:
    run = begun(members, length, parameters)
    require_exact(run.advertise().share().mask().agree().reveal(), run.updates, run.clients)


def test_the_largest_values_of_all_clients_do_not_wrap_around() -> None:
    found = federation(7)
    largest, weight = 1 << 50, 1170
    limits = Limits(largest, weight, 0)
    assert 7 * largest * weight < 1 << 63 <= 7 * largest * (weight + 1)
    updates = {id: (np.array([largest, -largest]), weight) for id in found.identities}
    total = aggregate(found, found.convene(2, limits), updates).aggregate.total
    assert total.tolist() == [7 * largest * weight, -7 * largest * weight]
    with pytest.raises(ConfigurationError, match=r"could reach 2\^63"):
        found.convene(2, Limits(largest, weight + 1, 0))


def test_reals_are_rounded_and_then_summed_exactly() -> None:
    found = federation(4)
    values = {id: torch.linspace(-1, 1, 6) * (place + 1) / 4 for place, id in enumerate(found.identities)}
    updates = {id: (value, place + 1) for place, (id, value) in enumerate(values.items())}
    mean = aggregate(found, found.convene(6, Limits(1.0, 4, 20)), updates).aggregate.mean()
    rounded = sum((value.double() * 2**20).round() * (place + 1) for place, value in enumerate(values.values()))
    assert torch.equal(mean, rounded / (10 * 2**20))


def test_weights_of_zero_have_no_mean() -> None:
    found = federation(3)
    updates = {id: (np.array([5]), 0) for id in found.identities}
    result = aggregate(found, found.convene(1, INTEGERS), updates).aggregate
    assert (result.total.tolist(), result.weight) == ([0], 0)
    with pytest.raises(DivisionByZeroError, match="weights of all 3 survivors"):
        result.mean()


def test_a_client_beyond_the_limits_leaves_and_the_others_go_on() -> None:
    found = federation(5)
    updates = updates_of(found.identities, 2)
    updates["client03"] = (np.array([1 << 41, 0]), 1)
    outcome = aggregate(found, found.convene(2, INTEGERS), updates)
    require_exact(outcome.aggregate, updates, [id for id in updates if id != "client03"])
    assert type(outcome.refused["client03"]) is EncodingRangeError


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("gone", range(7))
def test_dropouts_in_the_complete_graph(step: Step, gone: int) -> None:
    """Of 7 clients with a threshold of 3, four must go on."""
    found = federation(7)
    opening = found.convene(2, INTEGERS)
    assert Round(opening).parameters == Parameters(6, 3, 0)
    updates = updates_of(found.identities, 2)
    lost = set(sorted(found.identities)[1 : gone + 1])

    def run() -> None:
        outcome = aggregate(found, opening, updates, lambda at, id: at is step and id in lost)
        late = step in (Step.AGREE, Step.REVEAL)
        require_exact(outcome.aggregate, updates, [id for id in updates if late or id not in lost])

    if gone <= 3:
        run()
    else:
        with pytest.raises(TooFewSurvivorsError, match=f"{7 - gone} of 7 clients have done the step {step.value}"):
            run()


@pytest.mark.parametrize("step", STEPS)
def test_dropouts_in_a_sparse_graph(step: Step) -> None:
    """Every single client, and every pair that a threshold of 6 among 8 neighbours allows."""
    found = federation(12)
    for seed in range(6):
        opening = found.convene(2, INTEGERS, Parameters(8, 6, 2))
        order = Round(opening).graph.order
        lost = {Round(opening).ids[order[0]], Round(opening).ids[order[1 + seed]]}
        updates = updates_of(found.identities, 2, seed)
        outcome = aggregate(found, opening, updates, lambda at, id, lost=lost: at is step and id in lost)  # type: ignore[misc]
        late = step in (Step.AGREE, Step.REVEAL)
        require_exact(outcome.aggregate, updates, [id for id in updates if late or id not in lost])


@pytest.mark.parametrize("step", STEPS)
def test_a_thin_window_of_a_sparse_graph_ends_the_round(step: Step) -> None:
    found = federation(12)
    opening = found.convene(2, INTEGERS, Parameters(8, 6, 2))
    round = Round(opening)
    lost = {round.ids[number] for number in round.graph.order[:3]}
    with pytest.raises(TooFewSurvivorsError):
        aggregate(found, opening, updates_of(found.identities, 2), lambda at, id: at is step and id in lost)


def test_dropouts_at_every_step_of_one_round() -> None:
    found = federation(13)
    updates = updates_of(found.identities, 3)
    ids = sorted(updates)
    gone = dict(zip(STEPS, ids, strict=False))
    outcome = aggregate(found, found.convene(3, INTEGERS), updates, lambda step, id: gone[step] == id)
    require_exact(outcome.aggregate, updates, ids[3:])


def test_a_round_below_the_threshold_leaves_nothing_behind() -> None:
    run = begun(5).advertise().share()
    with pytest.raises(TooFewSurvivorsError, match="all was forgotten"):
        run.mask(without=["client00", "client01", "client02"])
    assert not run.server._total.any()
    assert run.server.step is Step.OVER
    for late in (run.server.survivors, run.server.result):
        with pytest.raises(OutOfTurnError):
            late()
    with pytest.raises(OutOfTurnError):
        run.server.on_masked("client00", run.masked["client00"])


def test_the_server_says_whose_message_is_missing() -> None:
    run = begun(4)
    run.server.on_advertise("client02", run.clients["client02"].advertise(run.opening))
    assert run.server.missing == ("client00", "client01", "client03")


def test_chosen_parameters_serve_a_round_with_dropouts_and_corrupt_clients() -> None:
    trust = Trust(dropout=0.1, corrupt=0.05, server="curious", sigma=10, eta=10)
    members = 90
    assert choose(members, trust).degree < members // 2
    found = Federation([f"c{number}" for number in range(members)], trust, replayed(5))
    updates = updates_of(found.identities, 1)
    lost = set(sorted(found.identities)[::10])
    outcome = aggregate(
        found, found.convene(1, INTEGERS), updates, lambda step, id: step is Step.MASK and id in lost
    )
    require_exact(outcome.aggregate, updates, updates.keys() - lost)


def test_assumptions_no_graph_serves_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="must survive for the sum to be safe"):
        choose(10, Trust(dropout=0.5, corrupt=0.3))
    assert choose(10, Trust(dropout=0.3, corrupt=0.1)) == Parameters(9, 5, 0)
    assert ALONE.server == "active"
