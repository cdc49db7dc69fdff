"""Programs of the tutorials, run as they are on workers of other processes.

The programs are those of ``tests/tutorials``, with what they assert of results; ``VirtualWorker`` gives them
connections to worker processes instead. Those that look into a worker's store have forms of their own below, and
docs/reference/tutorial-names.md says why.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import sharetorch as sy
from sharetorch.mpc.errors import GetNotPermittedError, MembersError
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.network.client import NetworkedWorker
from tests.network.tools import make_keys, start_group
from tests.tutorials.conftest import (  # noqa: F401  (fixtures)
    assert_close,
    assert_same_models,
    world_of_its_own,
)
from tests.tutorials.test_08b_protocols import protocol  # noqa: F401  (a fixture)
from tests.tutorials.test_11_private_inference import trained  # noqa: F401  (a fixture)

Worker = Any

NAMES = ("alice", "bob", "claire", "james", "crypto_provider")
STAND_IN = {
    "secure_worker": "james", "device_1": "alice", "device_2": "bob", "bill": "claire", "charlie": "claire",
    "server": "james",
}  # fmt: skip
"""Names of further tutorials, and who takes their places."""

ROWS = (
    "01_pointers", "02_federated_toy", "03_chains", "04_secure_averaging", "08_plans", "08b_protocols", "09_shares",
    "10_secure_aggregation", "11_private_inference", "12_encrypted_training", "12b_encrypted_mnist", "split_learning",
)  # fmt: skip

SLOW = ("12b_encrypted_mnist",)

OF_ITS_OWN_FORM = {
    "test_send_look_and_get", "test_a_known_name_is_the_same_worker", "test_a_pointer_is_sent_like_a_tensor",
    "test_dropping_the_chain_frees_both_ends", "test_three_holders_and_no_provider", "test_a_field_of_ones_own",
    "test_sums_and_differences", "test_the_averaging_party_sees_shares_only",
}  # fmt: skip
"""Programs that read ``worker._objects`` or name no provider; below."""

ELSEWHERE = {
    "test_move_goes_directly_and_keeps_the_id": "reads the worker's audit; test_remote_execution.py counts bytes",
    "test_a_call_is_one_message": "likewise",
    "test_the_mean_is_right_to_the_last_bit": "likewise",
    "test_data_goes_from_worker_to_worker": "likewise",
    "test_another_worker_conducts": "a private worker passes data on to nobody who may not have it",
    "test_the_third_party_may_be_a_trainer": "a private worker lets nobody else change its objects; below",
    "test_one_name_is_one_worker": "two workers of the same name in one program",
}


def _programs() -> Iterator[Any]:
    """Every test function of these rows, once for each choice of its parameters."""
    for row in ROWS:
        module = importlib.import_module(f"tests.tutorials.test_{row}")
        for name, program in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("test_") or name in OF_ITS_OWN_FORM or name in ELSEWHERE:
                continue
            marks = [mark for mark in getattr(program, "pytestmark", []) if mark.name == "parametrize"]
            for values in itertools.product(*(enumerate(mark.args[1]) for mark in marks)):
                chosen = {mark.args[0]: value for mark, (_, value) in zip(marks, values, strict=True)}
                id = "-".join([row, name.removeprefix("test_"), *(str(place) for place, _ in values)])
                yield pytest.param(program, chosen, id=id, marks=pytest.mark.slow if row in SLOW else ())


@pytest.fixture(scope="module")
def connections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    keys = make_keys(tmp_path_factory.mktemp("keys"), *NAMES, "me")
    group = start_group(NAMES, keys, sessions=True)
    identity = Identity.load(keys, "me")
    made = {id: NetworkedWorker(process.url, id, identity).connect() for id, process in group.items()}
    yield made
    for worker in made.values():
        worker.close()
    for process in group.values():
        process.stop()


@pytest.fixture
def workers(
    connections: dict[str, Worker],
    world_of_its_own: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """What a program takes for ``VirtualWorker``."""
    kept = []

    def virtual_worker(hook: Any = None, id: str = "", data: Any = (), **options: Any) -> Worker:
        assert not options
        worker = connections[STAND_IN.get(id, id)]
        kept.extend(value.send(worker) for value in data)
        return worker

    for worker in connections.values():
        worker.enter_local_worker_registry()
        worker.clear_objects()
    monkeypatch.setattr(sy, "VirtualWorker", virtual_worker)
    return virtual_worker


@pytest.mark.parametrize(("program", "chosen"), list(_programs()))
def test_the_same_program(
    program: Callable[..., None], chosen: dict[str, Any], workers: Any, request: pytest.FixtureRequest
) -> None:
    wanted = [name for name in inspect.signature(program).parameters if name not in chosen]
    local = sy.local_worker.is_client_worker
    sy.local_worker.is_client_worker = not program.__module__.startswith("tests.tutorials.test_08")
    try:
        program(**chosen, **{name: request.getfixturevalue(name) for name in wanted})
    finally:
        sy.local_worker.is_client_worker = local


def test_only_programs_that_exist_are_left_out() -> None:
    found = {
        name
        for row in ROWS
        for name, _ in inspect.getmembers(importlib.import_module(f"tests.tutorials.test_{row}"), inspect.isfunction)
    }
    assert found >= OF_ITS_OWN_FORM | ELSEWHERE.keys()


# ----------------------------------------------------------------------------------------------- programs that look in


def test_01_what_a_worker_holds_of_ours_is_listed_by_pointers(workers: Any) -> None:
    alice, bob = workers(id="alice"), workers(id="bob")
    assert not bob._objects
    x = torch.tensor([3, 1, 4, 1, 5])
    pointer = x.send(bob)
    assert [found.get().tolist() for found in bob._objects.values()] == [[3, 1, 4, 1, 5]]
    pointer = x.send(bob)
    assert list(bob._objects) == [pointer.id_at_location] and not alice._objects
    assert pointer.get().tolist() == [3, 1, 4, 1, 5] and not bob._objects


def test_03_a_pointer_at_a_worker(workers: Any) -> None:
    alice, bob = workers(id="alice"), workers(id="bob")
    x = torch.tensor([1.0, 2.0]).send(bob).send(alice)
    (held,) = alice._objects.values()
    assert isinstance(held, sy.PointerTensor) and held.location is alice and held.handle.kind == "pointer"
    (lent,) = [held.get() for held in alice._objects.values()]
    assert lent.location is bob and lent.get().tolist() == [1, 2]
    del x


def test_03_what_is_reached_through_others_is_not_changed_in_place(workers: Any) -> None:
    alice, bob = workers(id="alice"), workers(id="bob")
    x = torch.tensor([1.0, 2.0]).send(bob).send(alice)
    with pytest.raises(GetNotPermittedError, match="Change a copy"):
        x += 1
    x = x + 1
    assert x.get().get().tolist() == [2, 3]


def test_09_shares_need_a_provider_of_their_own_and_are_not_seen(workers: Any) -> None:
    bob, alice, bill, cp = (workers(id=name) for name in ("bob", "alice", "bill", "crypto_provider"))
    salary = torch.tensor([1800])
    with pytest.warns(sy.DriverIsProviderWarning), pytest.raises(MembersError, match="hides nothing from the driver"):
        salary.share(bob, alice, bill)
    shared = salary.share(bob, alice, bill, crypto_provider=cp)
    assert not bob._objects and not alice._objects and not bill._objects
    assert shared.child.field == 2**64
    assert shared.get().tolist() == [1800]


def test_09_sums_and_fields(workers: Any) -> None:
    bob, alice, bill, cp = (workers(id=name) for name in ("bob", "alice", "bill", "crypto_provider"))
    x, y = (torch.tensor([value]).share(bob, alice, bill, crypto_provider=cp) for value in (25, 5))
    assert [(x + y).get().item(), (x - y).get().item(), (x + 7).get().item()] == [30, 20, 32]
    z = torch.tensor([25, -7]).share(bob, alice, bill, crypto_provider=cp, field=2**62)
    assert z.child.field == 2**62 and z.get().tolist() == [25, -7]


def test_10_the_averaging_party_shows_no_share(workers: Any) -> None:
    bob, alice, james = (workers(id=name) for name in ("bob", "alice", "james"))
    weight = torch.tensor([0.5, -1.5], requires_grad=True).send(bob)
    handle = weight.copy().fix_precision().share(bob, alice, crypto_provider=james)
    assert isinstance(handle, sy.PointerTensor) and handle.location is bob
    shared = handle.get()
    assert not alice._objects
    assert shared.get().float_precision().tolist() == [0.5, -1.5]
    assert weight.get().tolist() == [0.5, -1.5]
