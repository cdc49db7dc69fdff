from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

import sharetorch as st
from sharetorch import fl
from sharetorch.mpc.errors import FederatedDataError, GetNotPermittedError, TensorsNotCollocatedException


def requests(worker: Any) -> int:
    return int(st.local_worker.link(worker.id).sent)


class Arrays(Dataset[Any]):
    """Items as users keep them: numpy arrays, targets as Python integers, and a transform."""

    def __init__(self, count: int, transform: Any = None) -> None:
        self.values = np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        item = self.values[place]
        return (item if self.transform is None else self.transform(item)), place % 3


# ------------------------------------------------------------------------------------------------------- BaseDataset


def test_length_index_and_transform_of_plain_tensors() -> None:
    dataset = fl.BaseDataset([1, 2, 3, 4], [3, 4, 5, 6])
    assert len(dataset) == 4 and dataset.location is None
    assert [int(x) for x in dataset[2]] == [3, 5]
    assert dataset[1:3][0].tolist() == [2, 3]
    assert fl.BaseDataset([1, 2], [0, 0], transform=lambda x: x * 10)[1][0] == 20
    assert dataset.transform(lambda x: x + 1) is dataset and dataset.data.tolist() == [2, 3, 4, 5]


def test_send_and_get_are_in_place_and_leave_the_users_tensor_alone(bob: Any) -> None:
    data = torch.tensor([1.0, 2.0])
    dataset = fl.BaseDataset(data, torch.tensor([0, 1]))
    assert dataset.send(bob) is dataset
    assert dataset.location is bob and dataset.data.location is bob and len(bob._objects) == 2
    assert type(data) is torch.Tensor
    item, target = dataset[1]
    assert item.location is bob and item.get() == 2 and target.get() == 1
    assert dataset.get() is dataset and dataset.location is None
    assert dataset.data.tolist() == [1.0, 2.0] and len(bob._objects) == 0


def test_transform_runs_at_the_worker(bob: Any) -> None:
    sent = fl.BaseDataset(torch.arange(3.0).send(bob), torch.arange(3).send(bob), transform=lambda x: x * 2)
    assert sent[1:][0].location is bob
    assert sent[1:][0].get().tolist() == [2.0, 4.0]


def test_fixed_precision_and_shares(bob: Any, alice: Any, james: Any) -> None:
    dataset = fl.BaseDataset(torch.tensor([1.5, -2.25]), torch.tensor([1, 0]))
    dataset.fix_precision().share(bob, alice, crypto_provider=james)
    assert type(dataset.data) is st.SharedTensor and dataset.location is None
    assert dataset.get().float_precision() is dataset
    assert dataset.data.tolist() == [1.5, -2.25] and dataset.targets.tolist() == [1.0, 0.0]


def test_tags_and_description_let_a_worker_find_it(bob: Any) -> None:
    data = torch.tensor([1.0, 2.0])
    dataset = fl.BaseDataset(data, torch.tensor([0, 1])).tag("#flowers", "#2020").describe("two flowers")
    dataset.send(bob)
    assert st.local_worker and not data.tags
    found = fl.BaseDataset.search(bob, "#flowers")
    assert found.location is bob and found.description == "two flowers" and found.tags == {"#flowers", "#2020"}
    assert found[1][0].get() == 2.0
    del found
    assert len(bob._objects) == 2
    with pytest.raises(FederatedDataError, match="bob holds 0 tensors tagged #trees #data"):
        fl.BaseDataset.search(bob, "#trees")


def test_a_sent_dataset_can_be_tagged_and_searched_at_several_workers(bob: Any, alice: Any) -> None:
    parts = fl.federate(fl.BaseDataset(torch.arange(5), torch.arange(5)), (bob, alice))
    for part in parts.datasets.values():
        part.tag("#numbers").describe("counted")
    found = fl.FederatedDataset.search((bob, alice), "#numbers")
    assert found.workers == ["bob", "alice"] and len(found) == 5
    assert found["alice"].description == "counted"


def test_readers_of_private_tensors_are_kept(bob: Any) -> None:
    secret = torch.arange(4.0).private_tensor(allowed_users=("dora",))
    for sent in (
        fl.BaseDataset(secret, torch.arange(4)).tag("#s").send(bob).data,
        fl.federate(fl.BaseDataset(secret, torch.arange(4)), (bob,))["bob"].data,
        fl.federate(fl.BaseDataset(secret, torch.arange(4), transform=lambda x: x), (bob,))["bob"].data,
    ):
        with pytest.raises(GetNotPermittedError):
            sent.fetched()
        assert sent.fetched(user="dora").tolist() == [0.0, 1.0, 2.0, 3.0]


def test_items_and_targets_must_fit() -> None:
    with pytest.raises(FederatedDataError, match=r"Items of shape \(3,\) and targets of shape \(2,\)"):
        fl.BaseDataset([1, 2, 3], [1, 2])
    with pytest.raises(FederatedDataError, match="one target for each item"):
        fl.BaseDataset(torch.tensor(1.0), torch.tensor(1))


def test_items_and_targets_must_be_at_one_place(bob: Any, alice: Any) -> None:
    with pytest.raises(TensorsNotCollocatedException, match=r"bob and alice"):
        fl.BaseDataset(torch.ones(2).send(bob), torch.ones(2).send(alice))
    with pytest.raises(TensorsNotCollocatedException, match=r"bob and here"):
        fl.BaseDataset(torch.ones(2).send(bob), torch.ones(2))


# ---------------------------------------------------------------------------------------------------------- federate


@settings(max_examples=25, deadline=None)
@given(count=some.integers(1, 23), parties=some.integers(1, 5))
def test_parts_are_equal_and_in_order(count: int, parties: int) -> None:
    workers = [st.VirtualWorker(id=f"part{place}") for place in range(parties)]
    dataset = TensorDataset(torch.arange(count * 2).reshape(count, 2), torch.arange(count))
    if parties > count:
        with pytest.raises(FederatedDataError, match=f"{count} items cannot be split among {parties} workers"):
            fl.federate(dataset, workers)
        return
    federated = fl.federate(dataset, workers)
    sizes = [len(part) for part in federated.datasets.values()]
    assert federated.workers == [worker.id for worker in workers]
    assert (
        sum(sizes) == len(federated) == count and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    )
    together = federated.get()
    assert torch.equal(together.data, dataset.tensors[0]) and torch.equal(together.targets, dataset.tensors[1])


def test_any_dataset_of_pairs_can_be_federated(bob: Any, alice: Any) -> None:
    for dataset in (
        Arrays(5),
        Arrays(5, transform=lambda item: torch.from_numpy(item)),
        ConcatDataset([Subset(Arrays(5), [0, 1]), Subset(Arrays(5), [2, 3, 4])]),
    ):
        together = fl.federate(dataset, (bob, alice)).get()
        assert torch.equal(together.data, torch.arange(30.0).reshape(5, 2, 3))
        assert together.targets.tolist() == [0, 1, 2, 0, 1] and together.targets.dtype == torch.int64


def test_the_dataset_method_splits_too(bob: Any, alice: Any) -> None:
    assert fl.federate(TensorDataset(torch.ones(2), torch.ones(2)), bob).workers == ["bob"]
    federated = fl.BaseDataset(torch.arange(3.0), torch.arange(3)).federate((bob, alice))
    assert [len(federated[name]) for name in ("bob", "alice")] == [2, 1]


class Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


class Broken(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Endless(), "A Endless has no length and index"),
        (Broken([1, 2]), "Item 0 of this Broken is a int"),
        (Broken([(1, 2, 3), (1, 2, 3)]), "Item 0 of this Broken is 3 parts"),
        (Broken([(torch.ones(2), 0), (torch.ones(3), 1)]), "The items of this Broken cannot be stacked"),
        (Broken([("a", 0), ("b", 1)]), "stack to a tuple and a Tensor"),
        (Broken([(object(), 0), (object(), 1)]), "cannot be stacked"),
    ],
)
def test_what_cannot_be_federated_is_told(bob: Any, dataset: Any, message: str) -> None:
    with pytest.raises(FederatedDataError, match=message):
        fl.federate(dataset, (bob,))
    assert not bob._objects


def test_workers_must_be_named_once_and_the_data_be_here(bob: Any, alice: Any) -> None:
    data = TensorDataset(torch.ones(4), torch.ones(4))
    with pytest.raises(FederatedDataError, match="needs workers"):
        fl.federate(data, ())
    with pytest.raises(FederatedDataError, match="named twice: bob, bob"):
        fl.federate(data, (bob, bob))
    federated = fl.federate(data, (bob, alice))
    with pytest.raises(FederatedDataError, match="spread over bob, alice already"):
        federated.federate((bob,))
    with pytest.raises(FederatedDataError, match="at bob already"):
        fl.federate(federated["bob"], (alice,))


# -------------------------------------------------------------------------------------------------- FederatedDataset


def test_federated_dataset_is_indexed_by_worker(bob: Any, alice: Any) -> None:
    parts = [fl.BaseDataset([1, 2], [1, 2]).send(bob), fl.BaseDataset([3, 4, 5, 6], [3, 4, 5, 6]).send(alice)]
    federated = fl.FederatedDataset(parts)
    assert federated.workers == ["bob", "alice"] and len(federated) == 6
    assert federated["alice"] is parts[1] and federated[bob] is parts[0] and federated.datasets["bob"].location is bob
    with pytest.raises(KeyError, match="No data set at 'carol'; there are some at bob, alice"):
        federated["carol"]
    assert federated.get_dataset("bob").data.tolist() == [1, 2] and federated.workers == ["alice"]
    assert "4 items at alice" in repr(federated)


def test_federated_dataset_needs_one_dataset_at_each_worker(bob: Any) -> None:
    at_bob = fl.BaseDataset([1, 2], [1, 2]).send(bob)
    with pytest.raises(FederatedDataError, match="at least one"):
        fl.FederatedDataset([])
    with pytest.raises(FederatedDataError, match="Data set 1 is not at one worker"):
        fl.FederatedDataset([at_bob, fl.BaseDataset([1], [1])])
    with pytest.raises(FederatedDataError, match="Two data sets are at bob"):
        fl.FederatedDataset([at_bob, fl.BaseDataset([1, 2], [1, 2]).send(bob)])


# ------------------------------------------------------------------------------------------------------------ loader


def spread(workers: list[Any], sizes: list[int]) -> fl.FederatedDataset:
    """Items are counted through all workers; targets are their negatives."""
    ends = np.cumsum(sizes)
    parts = [torch.arange(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)]
    return fl.FederatedDataset(
        [fl.BaseDataset(part, -part).send(worker) for part, worker in zip(parts, workers, strict=True)]
    )


def test_workers_come_one_after_the_other(bob: Any, alice: Any) -> None:
    loader = fl.FederatedDataLoader(spread([bob, alice], [2, 5]), batch_size=2)
    seen = [(data.location.id, data.copy().get().tolist(), target.copy().get().tolist()) for data, target in loader]
    assert seen == [
        ("bob", [0, 1], [0, -1]),
        ("alice", [2, 3], [-2, -3]),
        ("alice", [4, 5], [-4, -5]),
        ("alice", [6], [-6]),
    ]
    assert len(loader) == 4
    assert len(fl.FederatedDataLoader(spread([bob, alice], [2, 5]), batch_size=2, drop_last=True)) == 3


@settings(max_examples=25, deadline=None)
@given(
    sizes=some.lists(some.integers(1, 9), min_size=1, max_size=4),
    batch_size=some.integers(1, 5),
    shuffle=some.booleans(),
    drop_last=some.booleans(),
)
def test_every_item_comes_once_with_its_target(
    sizes: list[int], batch_size: int, shuffle: bool, drop_last: bool
) -> None:
    workers = [st.VirtualWorker(id=f"part{place}") for place in range(len(sizes))]
    federated = spread(workers, sizes)
    loader = fl.FederatedDataLoader(federated, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
    for _ in range(2):
        places, items = [], []
        for data, target in loader:
            values = data.copy().get()
            assert torch.equal(values, -target.copy().get())
            assert len(values) == batch_size or (not drop_last and len(values) < batch_size)
            places.append(data.location.id)
            items += values.tolist()
        assert len(places) == len(loader)
        assert places == sorted(places)
        assert len(set(items)) == len(items)
        assert drop_last or sorted(items) == list(range(sum(sizes)))
    if not drop_last:
        assert len(loader) == sum(-(-size // batch_size) for size in sizes)


def test_order_is_drawn_by_torchs_generator(bob: Any) -> None:
    federated = spread([bob], [50])

    def items(**options: Any) -> list[int]:
        return [
            int(x)
            for data, _ in fl.FederatedDataLoader(federated, 7, shuffle=True, **options)
            for x in data.copy().get()
        ]

    torch.manual_seed(3)
    first = items()
    assert first != items() and first != sorted(first)
    torch.manual_seed(3)
    assert items() == first
    assert items(generator=torch.Generator().manual_seed(3)) == items(generator=torch.Generator().manual_seed(3))


def test_batches_stay_at_the_worker_and_cost_few_requests(bob: Any) -> None:
    """In order: one request for each tensor and loop; shuffled: the order, and one for each tensor and batch."""
    federated = spread([bob], [1000])
    for shuffle, most in ((False, 2), (True, 2 + 2 * 10)):
        before, held = requests(bob), len(bob._objects)
        loader = fl.FederatedDataLoader(federated, batch_size=100, shuffle=shuffle)
        for batch in loader:
            assert len(batch[0]) == 100
        assert requests(bob) - before <= most + 4
        del batch, loader
        assert len(bob._objects) == held


def test_num_iterators_gives_dictionaries_and_is_limited(bob: Any, alice: Any, james: Any) -> None:
    federated = spread([bob, alice, james], [2, 4, 4])
    loader = fl.FederatedDataLoader(federated, batch_size=2, num_iterators=3, shuffle=True)
    assert loader.num_iterators == 2
    steps = list(loader)
    assert [[worker.id for worker in step] for step in steps] == [["bob", "alice"], ["alice", "james"]] and len(
        loader
    ) == 2
    assert all(step[worker][0].location is worker for step in steps for worker in step)
    assert steps[0]["bob"] is steps[0][bob] and "bob" in steps[0] and "carol" not in steps[0]
    partial = fl.FederatedDataLoader(federated, batch_size=2, num_iterators=2, partial_steps=True)
    seen = Counter(worker.id for step in partial for worker in step)
    assert seen == {"bob": 1, "alice": 2, "james": 2} and len(partial) == 3
    assert fl.FederatedDataLoader(spread([bob], [2]), num_iterators=4).num_iterators == 1


def test_iter_per_worker_gives_a_batch_of_each(bob: Any, alice: Any, james: Any) -> None:
    federated = spread([bob, alice, james], [2, 4, 5])
    loader = fl.FederatedDataLoader(federated, batch_size=2, iter_per_worker=True, shuffle=True)
    assert [[worker.id for worker in step] for step in loader] == [["bob", "alice", "james"]]
    assert len(loader) == 1 and loader.workers == ["bob", "alice", "james"]
    whole = fl.FederatedDataLoader(federated, batch_size=2, iter_per_worker=True, partial_steps=True)
    assert [len(step) for step in whole] == [3, 2, 1] and len(whole) == 3
    assert [len(step) for step in fl.FederatedDataLoader(spread([bob], [3]), batch_size=2, iter_per_worker=True)] == [
        1,
        1,
    ]


def test_next_continues_the_loop_started_last(bob: Any, alice: Any) -> None:
    loader = fl.FederatedDataLoader(spread([bob, alice], [2, 2]), batch_size=2)
    assert next(loader)[0].location is bob and next(loader)[0].location is alice
    with pytest.raises(StopIteration):
        next(loader)
    iter(loader)
    assert next(loader)[0].location is bob
    assert [(a[0].location.id, b[0].location.id) for a in loader for b in loader] == [
        ("bob", "bob"), ("bob", "alice"), ("alice", "bob"), ("alice", "alice"),
    ]  # fmt: skip


def test_loader_applies_the_transform_of_a_dataset(bob: Any) -> None:
    dataset = fl.BaseDataset(torch.arange(3.0).send(bob), torch.arange(3).send(bob), transform=lambda x: x + 0.5)
    ((data, _),) = fl.FederatedDataLoader(fl.FederatedDataset([dataset]), batch_size=8)
    assert data.get().tolist() == [0.5, 1.5, 2.5]


def test_options_of_torchs_loader_are_ignored_or_refused(bob: Any) -> None:
    federated = spread([bob], [3])
    fl.FederatedDataLoader(federated, num_workers=4, pin_memory=True, timeout=1, persistent_workers=True)
    for options in ({"sampler": range(3)}, {"collate_fn": list}, {"batchsize": 3}):
        with pytest.raises(TypeError, match=f"cannot take {next(iter(options))}"):
            fl.FederatedDataLoader(federated, **options)
    for options in ({"batch_size": 0}, {"batch_size": 2.5}, {"num_iterators": 0}):
        with pytest.raises(FederatedDataError, match=f"{next(iter(options))} is"):
            fl.FederatedDataLoader(federated, **options)
    with pytest.raises(FederatedDataError, match="A list is no federated data set"):
        fl.FederatedDataLoader([1, 2])


def test_batches_are_extracted_by_worker(bob: Any, alice: Any) -> None:
    batches = fl.utils.extract_batches_per_worker(fl.FederatedDataLoader(spread([bob, alice], [3, 4]), batch_size=2))
    assert {worker.id: [len(data) for data, _ in parts] for worker, parts in batches.items()} == {
        "bob": [2, 1],
        "alice": [2, 2],
    }
