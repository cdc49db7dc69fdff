"""Numbers, tags, descriptions and readers of local tensors; arrays of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sharetorch as sy
from sharetorch.exceptions import GetNotPermittedError, UnsupportedDtypeError
from sharetorch.mpc.errors import IdNotUniqueError, LabelError
from sharetorch.remote import labels
from sharetorch.remote.ids import IdProvider

Worker = sy.VirtualWorker


def test_tags_and_descriptions_go_with_the_tensor(bob: Worker) -> None:
    x = torch.ones(1).tag("#a").tag("#b", "#a").describe("ones\nand no more")
    assert x.tags == {"#a", "#b"} and x.description == "ones\nand no more"
    p = x.send(bob)
    assert p.tags == {"#a", "#b"} and p.description == x.description


def test_labels_can_be_replaced() -> None:
    x = torch.ones(1).tag("#a")
    labels.set_tags(x, ["#b", "#c", "#b"])
    assert labels.of(x).tags == ("#b", "#c")
    labels.set_tags(x, None)
    assert labels.tags(x) == set()
    labels.set_description(x, "text")
    assert labels.description(x) == "text"
    labels.set_description(x, None)
    assert labels.description(x) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.tag(["#a"]),
        lambda x: x.tag("#a", 1),
        lambda x: x.describe(3),
        lambda x: labels.set_tags(x, "#a"),
    ],
)
def test_labels_are_texts(wrong: Any) -> None:
    x = torch.ones(1)
    with pytest.raises(LabelError, match="text"):
        wrong(x)
    assert x.tags == set() and x.description is None


def test_private_tensors(bob: Worker) -> None:
    x = sy.PrivateTensor(allowed_users=["ann"], tags=["#a"], description="ann's").on(torch.tensor([1.0]))
    assert x.allow("ann") and not x.allow("ben") and not x.allow(None)
    assert x.tags == {"#a"} and x.description == "ann's"
    p = x.send(bob)
    assert p.allow("ann") and not p.allow("ben")
    with pytest.raises(GetNotPermittedError):
        p.get()
    assert p.get(user="ann").tolist() == [1.0]
    y = torch.tensor([1.0]).private_tensor(allowed_users="ben")
    assert y.allow("ben")
    assert not torch.tensor([1.0]).private_tensor().allow("ben")
    assert torch.tensor([1.0]).allow("anybody")


def test_a_private_tensor_leaves_the_original_open() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    y = sy.PrivateTensor(["ann"]).on(x)
    assert x.allow("ben") and not y.allow("ben")
    assert y.requires_grad


# ------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_different_and_stay() -> None:
    x, y = torch.ones(1), torch.ones(1)
    assert x.id == x.id != y.id
    provider = IdProvider()
    assert len({provider.pop() for _ in range(1000)}) == 1000


def test_numbers_can_be_set_the_last_first() -> None:
    given = [3, 4]
    provider = IdProvider(given)
    provider.set_next_ids([5, 6])
    assert [provider.pop() for _ in range(4)] == [6, 5, 4, 3]
    assert given == []
    assert provider.pop() not in (3, 4, 5, 6)


def test_numbers_given_before_are_refused() -> None:
    provider = IdProvider()
    first = provider.pop()
    with pytest.raises(IdNotUniqueError, match=str(first)):
        provider.set_next_ids([first])
    with pytest.raises(IdNotUniqueError, match="8"):
        provider.set_next_ids([8, 8])
    provider.set_next_ids([first], check_ids=False)
    assert provider.pop() == first


@pytest.mark.parametrize("wrong", [-1, 2**63, "1", 1.0, True])
def test_numbers_out_of_range(wrong: Any) -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        IdProvider().set_next_ids([wrong])


def test_numbers_can_be_recorded() -> None:
    provider = IdProvider()
    provider.pop()
    assert provider.get_recorded_ids() == []
    provider.start_recording_ids()
    numbers = [provider.pop(), provider.pop()]
    assert provider.get_recorded_ids(continue_recording=True) == numbers
    numbers.append(provider.pop())
    assert provider.get_recorded_ids() == numbers
    provider.pop()
    assert provider.get_recorded_ids() == []


def test_tensors_get_the_numbers_that_were_set(bob: Worker) -> None:
    first, second = sy.ID_PROVIDER.pop(), sy.ID_PROVIDER.pop()
    wanted = [first + 10**12, second + 10**12]
    sy.ID_PROVIDER.set_next_ids(wanted)
    x, y = torch.ones(1), torch.ones(1)
    assert (x.id, y.id) == (wanted[1], wanted[0])
    bob.register_obj(x)
    assert wanted[1] in bob._objects


# --------------------------------------------------------------------------------------------------------------- numpy


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool", ">f4"])
def test_arrays_become_tensors(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).T.astype(dtype)
    x = sy.NumpyTensor(array, tags=["#a"], description="six")
    assert isinstance(x, torch.Tensor) and x.shape == (3, 2)
    assert np.array_equal(x.numpy(), array)
    assert x.tags == {"#a"} and x.description == "six"
    array[0, 0] = 1
    assert x[0, 0].item() == 0


def test_lists_become_tensors_and_can_be_sent(bob: Worker) -> None:
    x = sy.NumpyTensor(numpy_tensor=[[1, 2], [3, 4]])
    assert x.send(bob).get().numpy().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("wrong", [[["a"]], [object()], [{}]])
def test_arrays_without_a_dtype(wrong: Any) -> None:
    with pytest.raises(UnsupportedDtypeError, match="cannot be a tensor of torch"):
        sy.NumpyTensor(wrong)
