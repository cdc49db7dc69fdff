"""Whatever is lost and whoever leaves: the exact sum over the survivors, or a typed error."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.fl.masking import Parameters, TooFewSurvivorsError
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.fl.masking.simulation import aggregate
from tests.fl.masking.federations import INTEGERS, federation, require_exact, updates_of

STEPS = [step for step in Step if step is not Step.OVER]
GRAPHS = {5: None, 8: Parameters(7, 4, 0), 9: Parameters(6, 5, 1), 11: Parameters(8, 6, 2)}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    members=st.sampled_from(sorted(GRAPHS)),
    seed=st.integers(0, 1 << 20),
    leaves=st.dictionaries(st.integers(0, 10), st.sampled_from(STEPS), max_size=6),
)
def test_any_schedule_of_losses(members: int, seed: int, leaves: dict[int, Step]) -> None:
    """Each client is lost at one step or none; it then takes no further part."""
    found = federation(members, seed=seed)
    updates = updates_of(found.identities, 2, seed)
    ids = sorted(updates)
    at = {ids[number]: step for number, step in leaves.items() if number < members}
    opening = found.convene(2, INTEGERS, GRAPHS[members])
    graph, numbers = Round(opening).graph, Round(opening).numbers
    try:
        outcome = aggregate(found, opening, updates, lambda step, id: at.get(id) is step)
    except TooFewSurvivorsError:
        assert leaves
        return
    survivors = [id for id in ids if at.get(id) not in STEPS[:3]]
    require_exact(outcome.aggregate, updates, survivors)
    assert not outcome.refused
    assert graph.sound({numbers[id] for id in survivors})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(gone=st.sets(st.integers(0, 10)), step=st.sampled_from(STEPS[:3]))
def test_a_sound_set_of_survivors_always_gives_its_sum(gone: set[int], step: Step) -> None:
    """Losses before the sum: the round succeeds exactly if the graph allows it."""
    found = federation(11)
    updates = updates_of(found.identities, 1)
    opening = found.convene(1, INTEGERS, Parameters(8, 6, 2))
    round = Round(opening)
    lost = {round.ids[number] for number in gone}
    left = {*range(11)} - gone
    needed = set(gone) if step is Step.MASK else set()
    possible = round.graph.sound(left) and all(round.graph.enough(number, left) for number in needed)
    try:
        outcome = aggregate(found, opening, updates, lambda at, id: at is step and id in lost)
    except TooFewSurvivorsError:
        assert not possible
    else:
        assert possible
        require_exact(outcome.aggregate, updates, updates.keys() - lost)
