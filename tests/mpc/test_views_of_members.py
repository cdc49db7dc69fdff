"""What each member receives in each protocol is uniform, and independent of secrets, other elements and other runs."""

import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.cost import DRIVER
from tests.mpc import views

LARGEST = (1 << 61) - 1
SECRETS = [(0, -1), (5, -5), (-LARGEST, LARGEST)]
cases = pytest.mark.parametrize("name", views.CASES)


@cases
def test_every_message_is_uniform_and_independent_of_its_neighbours(name: str) -> None:
    transcript = views.watch(name, -5)
    for rank in views.receivers(transcript):
        views.require_nothing_seen(transcript, rank)


@cases
@pytest.mark.parametrize("secrets", SECRETS)
def test_two_secrets_look_the_same(name: str, secrets: tuple[int, int]) -> None:
    first, second = (views.watch(name, value, seed) for seed, value in enumerate(secrets))
    for rank in views.receivers(first):
        views.require_same_views(first, second, rank)


@cases
def test_two_runs_have_nothing_in_common(name: str) -> None:
    case = views.CASES[name]
    session = testing.session(case.parties, case.suite, seed=1)
    transcripts = [views.watch_in(session, case.run, -5) for _ in range(2)]
    for rank in views.receivers(transcripts[0]):
        views.require_independent_runs(*transcripts, rank)


BLIND_HELPER = [
    "non_negative",
    "non_negative as published",
    "equal_zero",
    "relu",
    "relu as published",
]
SEVERAL_COMPARISONS = ("maximum", "reciprocal", "sort")
ONE_COMPARISON = [name for name in views.CASES if "tables" in name and not name.startswith(SEVERAL_COMPARISONS)]


@pytest.mark.parametrize("name", ONE_COMPARISON)
@pytest.mark.parametrize("value", [-5, 0, LARGEST])
def test_no_two_bits_seen_of_a_comparison_by_tables_depend_on_each_other(name: str, value: int) -> None:
    transcript = views.watch(name, value)
    for rank in views.receivers(transcript):
        views.require_independent_bits(transcript, rank)


@pytest.mark.parametrize("name", [name for name in views.CASES if "tables" in name])
def test_the_provider_of_tables_receives_nothing(name: str) -> None:
    assert views.CASES[name].parties not in views.receivers(views.watch(name, -5))


@pytest.mark.parametrize("name", BLIND_HELPER)
@pytest.mark.parametrize("value", [-1, 0, 5])
def test_the_helper_finds_a_fair_bit_at_a_uniform_place(name: str, value: int) -> None:
    views.require_blind_helper(views.helper_view(views.watch(name, value)))


@pytest.mark.parametrize(("x", "t"), [(0, 0), (5, 4), (1 << 62, (1 << 62) - 1), ((1 << 63) - 1, 12345), (3, 1 << 40)])
def test_the_helper_learns_nothing_from_the_bits_it_dealt(x: int, t: int) -> None:
    session = testing.session(seed=x % 1000)
    views.require_blind_helper(views.helper_view(views.compare_fixed(session, x, t, 4096)))


@pytest.mark.parametrize("n", [2, 3])
def test_equal_and_different_tensors_look_the_same(n: int) -> None:
    transcripts = []
    for seed, second in enumerate([torch.zeros(views.COUNT), torch.arange(views.COUNT)]):
        session = testing.session(n, seed=seed)
        operands = [testing.put_value(session, x.long()) for x in (torch.zeros(views.COUNT), second)]
        with session.record() as transcript:
            session.command("combine", *operands)
            testing.run(session, views.multiply, *operands)
        transcripts.append(list(transcript))
    for rank in range(n):
        views.require_same_views(*transcripts, rank)


@pytest.mark.parametrize("n", [2, 3])
def test_shares_given_to_parties_are_uniform(n: int) -> None:
    session = testing.session(n, seed=1)
    with session.record() as transcript:
        session.distribute(torch.full((views.COUNT,), 7))
    for rank in range(n):
        views.require_nothing_seen(transcript, rank)


@pytest.mark.parametrize("n", [2, 3])
def test_shares_given_to_the_driver_are_fresh(n: int) -> None:
    transcript = output_shares(n)
    for rank in range(n - 1):
        views.require_nothing_seen([m for m in transcript if m.sender == rank], DRIVER)


def output_shares(n: int) -> list[views.Message]:
    session = testing.session(n, seed=1)
    number = views.put_equal(session, 7, views.COUNT)
    with session.record() as transcript:
        session.reveal(number)
    return list(transcript)
