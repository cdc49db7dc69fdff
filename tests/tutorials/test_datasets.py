"""Data sets of one's own, federated and read back in batches."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import sharetorch as sy

hook = sy.TorchHook(torch)


class Flowers(Dataset[Any]):
    """Measures and kinds as arrays, as many data sets hold them."""

    def __init__(self, transform: Any = None) -> None:
        generator = np.random.default_rng(5)
        self.data = generator.normal(size=(17, 4)).astype("float32")
        self.targets = generator.integers(0, 3, size=17)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        data = torch.tensor(self.data[index])
        return (data if self.transform is None else self.transform(data)), torch.tensor(self.targets[index])


def test_a_data_set_of_arrays_is_federated() -> None:
    alice, bob = sy.VirtualWorker(hook, id="alice"), sy.VirtualWorker(hook, id="bob")
    flowers = Flowers()
    federated = flowers.federate((alice, bob))  # type: ignore[attr-defined]
    assert isinstance(federated, sy.FederatedDataset)
    assert list(federated.workers) == ["alice", "bob"] and len(federated) == 17
    loader = sy.FederatedDataLoader(federated, batch_size=4)
    assert len(loader) == 3 + 2
    rows, kinds, places = [], [], []
    for data, target in loader:
        assert data.location is target.location
        places.append(data.location.id)
        rows.append(data.get())
        kinds.append(target.get())
    assert places == ["alice"] * 3 + ["bob"] * 2
    assert torch.equal(torch.cat(rows), torch.tensor(flowers.data))
    assert torch.equal(torch.cat(kinds), torch.tensor(flowers.targets))


def test_every_order_of_a_shuffled_loader_has_every_row_once() -> None:
    alice, bob, carol = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "carol"))
    loader = sy.FederatedDataLoader(
        Flowers().federate((alice, bob, carol)),  # type: ignore[attr-defined]
        batch_size=3,
        shuffle=True,
        num_workers=2,
    )
    orders = []
    for _ in range(2):
        rows = torch.cat([data.copy().get() for data, _ in loader])
        assert sorted(rows[:, 0].tolist()) == sorted(Flowers().data[:, 0].tolist())
        orders.append(rows[:, 0].tolist())
    assert orders[0] != orders[1]


def test_transforms_run_before_the_rows_are_sent() -> None:
    alice, bob = sy.VirtualWorker(hook, id="alice"), sy.VirtualWorker(hook, id="bob")
    federated = Flowers(transform=lambda x: 2 * x + 1).federate((alice, bob))  # type: ignore[attr-defined]
    (first, *_), _ = federated["alice"][0:1]
    assert torch.equal(first.get(), 2 * torch.tensor(Flowers().data[0]) + 1)


def test_base_datasets_made_of_pointers() -> None:
    alice, bob = sy.VirtualWorker(hook, id="alice"), sy.VirtualWorker(hook, id="bob")
    table, kinds = torch.tensor(Flowers().data), torch.tensor(Flowers().targets)
    parts = [
        sy.BaseDataset(table[:10].send(alice), kinds[:10].send(alice)),
        sy.BaseDataset(table[10:].send(bob), kinds[10:].send(bob)),
    ]
    federated = sy.FederatedDataset(parts)
    assert len(parts[0]) == 10 and parts[0].location is alice
    assert federated.workers == ["alice", "bob"]
    one, kind = parts[1][2]
    assert torch.equal(one.get(), table[12]) and kind.get() == kinds[12]
    assert torch.equal(federated.datasets["alice"].get().data, table[:10])


def test_tags_find_a_data_set_again() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    flowers = Flowers()
    sent = sy.BaseDataset(flowers.data, flowers.targets).tag("#flowers").describe("seventeen flowers").send(bob)
    found = bob.search(["#flowers"])
    assert len(found) == 2 and all(pointer.location is bob for pointer in found)
    assert found[0].description == "seventeen flowers"
    assert torch.equal(sent.get().data, torch.tensor(flowers.data))


def test_data_and_targets_in_shares() -> None:
    alice, bob, james = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "james"))
    flowers = Flowers()
    dataset = sy.BaseDataset(torch.tensor(flowers.data), torch.tensor(flowers.targets))
    dataset.fix_precision().share(alice, bob, crypto_provider=james)
    assert isinstance(dataset.data, sy.AdditiveSharingTensor)
    back = dataset.get().float_precision()
    assert (back.data - torch.tensor(flowers.data)).abs().max() < 1e-3
    assert torch.equal(back.targets.long(), torch.tensor(flowers.targets))


def test_mistakes_are_named() -> None:
    alice, bob = sy.VirtualWorker(hook, id="alice"), sy.VirtualWorker(hook, id="bob")
    with pytest.raises(ValueError, match="17"):
        sy.BaseDataset(torch.zeros(17, 4), torch.zeros(16))
    with pytest.raises(sy.exceptions.TensorsNotCollocatedException, match="alice"):
        sy.BaseDataset(torch.zeros(3).send(alice), torch.zeros(3).send(bob))
