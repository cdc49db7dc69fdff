"""Search: what is found, what is given, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sharetorch as sy
from sharetorch.exceptions import GetNotPermittedError, MalformedRequestError
from sharetorch.remote.messages import Search

Worker = sy.VirtualWorker


def put(worker: Worker, *tags: str, value: float = 1.0) -> Any:
    return torch.tensor([value]).tag(*tags).send(worker)


def numbers(found: list[Any]) -> list[int]:
    return [pointer.id_at_location for pointer in found]


def test_all_tags_must_fit(bob: Worker) -> None:
    both, first, second = put(bob, "#a", "#b"), put(bob, "#a"), put(bob, "#b")
    untagged = torch.ones(1).send(bob)
    assert numbers(bob.search(["#a"])) == [both.id, first.id]
    assert numbers(bob.search("#b")) == [both.id, second.id]
    assert numbers(bob.search(("#a", "#b"))) == [both.id]
    assert numbers(bob.search({"#b", "#a"})) == [both.id]
    assert numbers(bob.search(iter(["#a", "#b"]))) == [both.id]
    assert bob.search(["#a", "#c"]) == []
    assert untagged.id not in numbers(bob.search([]))


@given(
    objects=st.lists(st.frozensets(st.sampled_from("abcd")), max_size=6), query=st.frozensets(st.sampled_from("abcde"))
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_search_is_the_subset_relation(bob: Worker, objects: list[frozenset[str]], query: frozenset[str]) -> None:
    bob.clear_objects()
    pointers = [put(bob, *sorted(tags)) for tags in objects]
    expected = [pointer.id for pointer, tags in zip(pointers, objects, strict=True) if tags and query <= tags]
    assert numbers(bob.search(sorted(query))) == expected


def test_an_empty_query_finds_everything_tagged(bob: Worker) -> None:
    tagged = put(bob, "#a")
    untagged = torch.ones(1).send(bob)
    for query in ([], (), set()):
        assert numbers(bob.search(query)) == [tagged.id]
    assert numbers(bob.search()) == [tagged.id]
    assert numbers(bob.search(untagged.id)) == [untagged.id]


def test_one_number(bob: Worker) -> None:
    x = put(bob)
    for query in (x.id, [x.id], (x.id,)):
        assert numbers(bob.search(query)) == [x.id]
    assert bob.search(x.id + 1) == []
    assert bob.search(0) == []


@pytest.mark.parametrize("query", [None, 1.5, True, -1, 2**64, [1, 2], ["#a", 1], [None], b"#a"])
def test_what_is_no_query(bob: Worker, query: Any) -> None:
    with pytest.raises(MalformedRequestError, match=r"tags, such as \['#boston', '#data'\], or for one number"):
        bob.search(query)


def test_words_of_the_description_are_not_searched(bob: Worker) -> None:
    x = torch.ones(1).tag("#a").describe("#b").send(bob)
    assert bob.search("#b") == []
    assert bob.search("#a")[0].description == "#b"
    assert x.description == "#b"


def test_pointers_come_back_never_the_stored_tensors(bob: Worker) -> None:
    kept = put(bob, "#a")
    (found,) = bob.search("#a")
    assert isinstance(found, sy.PointerTensor)
    assert found.location is bob and found.owner is sy.local_worker
    assert not found.garbage_collection
    del found
    assert kept.id in bob._objects
    (found,) = bob.search("#a")
    assert torch.equal((found + 1).get(), torch.tensor([2.0]))


def test_found_pointers_can_be_fetched_as_any(bob: Worker) -> None:
    put(bob, "#a").disable_gc  # noqa: B018 - the attribute turns deletion off
    assert bob.search("#a")[0].get().tolist() == [1.0]
    assert bob.search("#a") == []


def test_tags_given_later_count(bob: Worker) -> None:
    x = put(bob, "#a")
    x.tag("#b").describe("two tags")
    (found,) = bob.search(["#a", "#b"])
    assert found.description == "two tags"
    found.tag("#c")
    assert numbers(bob.search("#c")) == [x.id]


def test_request_search_asks_another_worker(alice: Worker, bob: Worker) -> None:
    x = put(bob, "#a")
    (here,) = sy.local_worker.request_search("#a", location=bob)
    assert here.id_at_location == x.id and here.owner is sy.local_worker
    (there,) = alice.request_search(["#a"], location=bob)
    assert there.owner is alice and there.location is bob
    assert not there.gc
    assert alice.request_search("#b", location=bob) == []


def test_results_of_operations_are_not_tagged(bob: Worker) -> None:
    x = put(bob, "#a")
    y = x + 1
    assert numbers(bob.search("#a")) == [x.id]
    assert y.tags == set()


def test_other_clients_objects_at_a_private_worker_are_not_found(alice: Worker) -> None:
    carl = Worker(id="private carl", private=True)
    mine = put(carl, "#a")
    own = carl.register_obj(torch.ones(1).tag("#a"))
    assert numbers(carl.search("#a")) == [mine.id, own.id]
    assert numbers(alice.request_search("#a", location=carl)) == [own.id]
    assert alice.request_search(mine.id, location=carl) == []
    (found,) = alice.request_search("#a", location=carl)
    with pytest.raises(GetNotPermittedError):
        found.get()


def test_fixed_precision_and_chains_are_found_too(alice: Worker, bob: Worker) -> None:
    fixed = torch.tensor([1.5]).fix_precision().tag("#fixed")
    kept = fixed.send(bob)
    (found,) = bob.search("#fixed")
    assert found.id_at_location == kept.id
    assert found.get().float_precision().tolist() == [1.5]
    chain = torch.tensor([2.0]).send(alice).send(bob).tag("#chain")
    (found,) = bob.search("#chain")
    assert found.id_at_location == chain.id
    assert found.get().get().tolist() == [2.0]


def test_a_search_is_one_message(bob: Worker) -> None:
    x = put(bob, "#a")
    link = sy.local_worker.link(bob.id)
    before = link.sent
    bob.search("#a")
    assert link.sent == before + 1
    assert link.request(Search(["#a"])).objects[0].number == x.id
