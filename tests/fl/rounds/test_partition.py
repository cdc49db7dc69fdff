"""Partitions: every item exactly once, the same from the same seed, as uneven as asked for."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.fl.rounds import partition
from sharetorch.mpc.errors import FederatedDataError

LABELS = torch.arange(1000) % 10

WAYS: dict[str, Callable[[Tensor, int, int], list[Tensor]]] = {
    "iid": lambda labels, clients, seed: partition.iid(len(labels), clients, seed),
    "dirichlet": lambda labels, clients, seed: partition.dirichlet(labels, clients, 0.1, seed),
    "shards": lambda labels, clients, seed: partition.by_shards(labels, clients, 2, seed),
    "quantity": lambda labels, clients, seed: partition.by_quantity(len(labels), clients, 0.3, seed),
}


def require_partition(parts: list[Tensor], items: int) -> None:
    assert all(part.dtype is torch.int64 and part.tolist() == sorted(part.tolist()) for part in parts)
    assert sorted(place for part in parts for place in part.tolist()) == list(range(items))


@pytest.mark.parametrize("way", WAYS)
@given(
    labels=st.lists(st.integers(-3, 9), min_size=1, max_size=60),
    clients=st.integers(1, 12),
    seed=st.integers(-(2**40), 2**40),
)
def test_every_item_exactly_once_and_the_same_again(way: str, labels: list[int], clients: int, seed: int) -> None:
    values = torch.tensor(labels)
    least = 2 if way == "shards" else 1
    if len(labels) < clients * least:
        with pytest.raises(FederatedDataError, match=f"{len(labels)} items cannot give {clients} clients {least} each"):
            WAYS[way](values, clients, seed)
        return
    parts = WAYS[way](values, clients, seed)
    require_partition(parts, len(labels))
    assert len(parts) == clients and min(map(len, parts)) >= least
    assert all(torch.equal(x, y) for x, y in zip(parts, WAYS[way](values, clients, seed), strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_another_seed_gives_another_partition(way: str) -> None:
    parts = [WAYS[way](LABELS, 5, seed) for seed in (0, 1)]
    assert not all(torch.equal(x, y) for x, y in zip(*parts, strict=True))


def test_iid_parts_are_of_equal_size() -> None:
    assert [len(part) for part in partition.iid(103, 5)] == [21, 21, 21, 20, 20]


def test_a_small_alpha_is_uneven_and_a_large_one_is_not() -> None:
    def spread(alpha: float) -> float:
        parts = partition.dirichlet(LABELS, 10, alpha)
        return float(torch.stack([torch.bincount(LABELS[part], minlength=10).float() for part in parts]).std())

    assert spread(0.1) > 3 * spread(10.0) and spread(1e6) < 1


def test_dirichlet_gives_each_client_its_least() -> None:
    parts = partition.dirichlet(LABELS, 50, 0.01, least=7)
    require_partition(parts, 1000)
    assert min(map(len, parts)) >= 7


def test_a_client_has_about_as_many_labels_as_shards() -> None:
    parts = partition.by_shards(LABELS, 10, 2)
    assert all(len(LABELS[part].unique()) <= 2 for part in parts) and {len(part) for part in parts} == {100}


def test_quantities_differ() -> None:
    sizes = [len(part) for part in partition.by_quantity(1000, 10, 0.3)]
    assert max(sizes) > 4 * min(sizes)


def test_by_label_gives_each_its_labels() -> None:
    parts = partition.by_label(LABELS, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]])
    require_partition(parts, 1000)
    assert [LABELS[part].unique().tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8, 9]], r"Labels \[4\] are in two groups"),
        ([[0, 1], [2, 3, 4, 5, 6, 7, 8]], r"Labels \[9\] are in no group"),
        ([list(range(10)), [11]], r"places \[1\] of the groups get no item"),
    ],
)
def test_groups_that_are_no_partition(groups: list[list[int]], message: str) -> None:
    with pytest.raises(FederatedDataError, match=message):
        partition.by_label(LABELS, groups)


@pytest.mark.parametrize(
    ("labels", "alpha", "message"),
    [
        (torch.zeros(4), 1.0, "float32; a partition by labels needs one whole number"),
        (torch.zeros(4, 2, dtype=torch.int64), 1.0, r"shape \(4, 2\)"),
        (LABELS, 0.0, "alpha is 0.0"),
        (LABELS, float("nan"), "alpha is nan"),
    ],
)
def test_labels_or_alpha_that_are_none(labels: Tensor, alpha: float, message: str) -> None:
    with pytest.raises(FederatedDataError, match=message):
        partition.dirichlet(labels, 2, alpha)


def test_clients_and_shards_of_zero() -> None:
    with pytest.raises(FederatedDataError, match="0 clients"):
        partition.iid(10, 0)
    with pytest.raises(FederatedDataError, match="0 shards"):
        partition.by_shards(LABELS, 2, 0)


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.3", "labels", "labels:3", "quantity", "quantity:0.2"])
def test_texts_name_partitions(text: str) -> None:
    require_partition(partition.parse(text)(LABELS, 7, 0), 1000)


@pytest.mark.parametrize("text", ["", "even", "iid:3", "dirichlet", "dirichlet:x", "labels:x", "quantity:x"])
def test_texts_that_name_none(text: str) -> None:
    with pytest.raises(FederatedDataError, match="is no partition. There are iid"):
        partition.parse(text)


def test_a_text_with_an_alpha_outside_its_range() -> None:
    with pytest.raises(FederatedDataError, match="alpha is -1.0"):
        partition.parse("dirichlet:-1")
