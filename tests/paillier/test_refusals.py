"""What cannot be computed raises a typed error that says what to do, and reveals nothing."""

import ast
import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import sharetorch
from sharetorch.mpc import paillier
from sharetorch.mpc.errors import (
    DivisionByZeroError,
    EncodingError,
    EncodingRangeError,
    NotFiniteError,
    RevealError,
    ShapeError,
    ShareTorchError,
    UnsupportedDtypeError,
    UnsupportedOperationError,
)
from sharetorch.mpc.paillier import (
    CiphertextError,
    CiphertextProductError,
    KeyPair,
    PlaintextRangeError,
    WrongKeyError,
    encrypt,
)

X = torch.tensor([[1.5, -2.0], [0.25, 4.0]])

PRODUCTS: dict[str, Callable[[Tensor], object]] = {
    "x * x": lambda x: x * x,
    "x @ x": lambda x: x @ x,
    "x ** 2": lambda x: x**2,
    "square": lambda x: x.square(),
    "prod": lambda x: x.prod(),
    "mv": lambda x: torch.mv(x, x[0]),
    "dot": lambda x: x[0].dot(x[0]),
    "bmm": lambda x: torch.bmm(x[None], x[None]),
    "linear": lambda x: torch.nn.functional.linear(x, x),
    "addmm": lambda x: torch.addmm(x, x, x),
    "outer": lambda x: torch.outer(x[0], x[0]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_two_encrypted_tensors(name: str, keys: KeyPair) -> None:
    with pytest.raises(CiphertextProductError, match=r"x\.share"):
        PRODUCTS[name](encrypt(X, keys.public_key))


OPERATIONS: dict[str, Callable[[Tensor], object]] = {
    "x > 0": lambda x: x > 0,
    "x == x": lambda x: x == x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "abs": abs,
    "exp": torch.exp,
    "max": lambda x: x.max(),
    "argmax": lambda x: x.argmax(),
    "sort": lambda x: x.sort(),
    "x // 2": lambda x: x // 2,
    "x % 2": lambda x: x % 2,
    "1 / x": lambda x: 1 / x,
    "x / x": lambda x: x / x,
    "round": torch.round,
    "allclose": lambda x: torch.allclose(x, x),
    "unique": lambda x: x.unique(),
    "to int": lambda x: x.long(),
    "std": lambda x: x.std(),
    "mse": lambda x: torch.nn.functional.mse_loss(x, X),
    "cat with plain": lambda x: torch.cat([x, X]),
    "encrypted kernel": lambda x: torch.nn.functional.conv2d(X[None, None], x[None, None]),
    "transposed": lambda x: torch.nn.functional.conv_transpose2d(x[None, None], X[None, None]),
    "pad with ones": lambda x: torch.nn.functional.pad(x, (1, 1), value=1.0),
    "in place": lambda x: x.add_(1),
    "augmented": lambda x: x.__iadd__(1),
    "assignment": lambda x: x.__setitem__(0, 1.0),
    "into plain": lambda x: torch.zeros(2, 2).copy_(x),
    "into a list of plain": lambda x: torch.zeros(2, 2).add_(x),
    "random like": torch.rand_like,
    "backward": lambda x: torch.nn.Linear(2, 2)(x).sum().backward(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_without_a_form(name: str, keys: KeyPair) -> None:
    with pytest.raises(UnsupportedOperationError):
        OPERATIONS[name](encrypt(X, keys.public_key))


def test_an_encrypted_index_is_refused(keys: KeyPair) -> None:
    index = encrypt(torch.tensor([0]), keys.public_key)
    for attempt in (lambda: X[index], lambda: X.index_select(0, index), lambda: encrypt(X, keys.public_key)[index]):
        with pytest.raises(UnsupportedOperationError):
            attempt()


CONVERSIONS: dict[str, Callable[[Tensor], object]] = {
    "bool": lambda x: bool(x[0, 0]),
    "if": lambda x: 1 if x.sum() else 0,
    "item": lambda x: x[0, 0].item(),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": np.asarray,
    "pickle": pickle.dumps,
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversions_need_decryption(name: str, keys: KeyPair) -> None:
    with pytest.raises(RevealError):
        CONVERSIONS[name](encrypt(X, keys.public_key))


def test_a_copy_is_encrypted_too(keys: KeyPair) -> None:
    e = encrypt(X, keys.public_key)
    assert torch.equal(copy.deepcopy({"x": e})["x"].decrypt(private_key=keys.private_key), X)


def test_the_message_names_the_operation_and_the_line(keys: KeyPair) -> None:
    e = encrypt(X, keys.public_key)
    with pytest.raises(UnsupportedOperationError, match=r"aten\.tanh.*test_refusals\.py, line \d+: e\.tanh"):
        e.tanh()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (torch.tensor([float("nan")]), NotFiniteError),
        (torch.tensor([1.0, float("inf")]), NotFiniteError),
        (torch.tensor([1 + 2j]), UnsupportedDtypeError),
        (torch.tensor([1.0]).to_sparse(), UnsupportedDtypeError),
        (torch.tensor([1e30]), EncodingRangeError),
        ([1.0, 2.0], UnsupportedDtypeError),
        (3.0, UnsupportedDtypeError),
        (None, UnsupportedDtypeError),
    ],
)
def test_data_that_cannot_be_encrypted(value: Tensor, error: type[Exception], keys: KeyPair) -> None:
    with pytest.raises(error):
        encrypt(value, keys.public_key)


def test_a_larger_limit_admits_larger_numbers(keys: KeyPair) -> None:
    e = encrypt(torch.tensor([1e30]), keys.public_key, limit=1 << 110)
    assert e.decrypt(private_key=keys.private_key).item() == torch.tensor(1e30).item()
    with pytest.raises(EncodingRangeError, match="1 of 2"):
        encrypt(torch.tensor([1.0, 3.0]), keys.public_key, limit=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"base": 3},
        {"precision_fractional": -1},
        {"precision_fractional": 65},
        {"precision_fractional": 1.5},
        {"limit": -1},
        {"limit": 1.5},
    ],
)
def test_settings_that_are_refused(settings: dict[str, int], keys: KeyPair) -> None:
    with pytest.raises(EncodingError):
        encrypt(X, keys.public_key, **settings)


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda x: x + float("nan"), NotFiniteError),
        (lambda x: x * torch.tensor(float("inf")), NotFiniteError),
        (lambda x: x @ torch.full((2, 1), float("nan")), NotFiniteError),
        (lambda x: torch.mul(x, torch.tensor([1j, 1j])), UnsupportedDtypeError),
        (lambda x: x * 1e60, PlaintextRangeError),
        (lambda x: x + 1e70, PlaintextRangeError),
        (lambda x: x / 0, DivisionByZeroError),
        (lambda x: x / torch.tensor([1.0, 0.0]), DivisionByZeroError),
        (lambda x: x + torch.ones(3), ShapeError),
        (lambda x: x @ torch.ones(3, 1), ShapeError),
        (lambda x: x.reshape(3), ShapeError),
        (lambda x: x[torch.tensor([7])], ShapeError),
        (lambda x: torch.cat([x, x[:, :1]]), ShapeError),
        (lambda x: x[:0].mean(), ShapeError),
    ],
)
def test_public_operands_that_are_refused(operation, error: type[Exception], keys: KeyPair) -> None:
    with pytest.raises(error):
        operation(encrypt(X, keys.public_key))


def test_integers_have_no_mean(keys: KeyPair) -> None:
    with pytest.raises(UnsupportedDtypeError, match="float"):
        encrypt(torch.tensor([1, 2]), keys.public_key).mean()


@pytest.mark.parametrize(
    "join", [torch.add, torch.sub, lambda x, y: torch.cat([x, y]), lambda x, y: torch.stack([x, y])]
)
def test_tensors_under_different_keys_do_not_meet(join, keys: KeyPair, other_keys: KeyPair) -> None:
    with pytest.raises(WrongKeyError, match=keys.public_key.fingerprint):
        join(encrypt(X, keys.public_key), encrypt(X, other_keys.public_key))


def test_only_the_right_private_key_decrypts(keys: KeyPair, other_keys: KeyPair) -> None:
    e = encrypt(X, keys.public_key)
    for wrong in (other_keys.private_key, keys.public_key, None, 5):
        with pytest.raises(WrongKeyError):
            e.decrypt(private_key=wrong)  # type: ignore[arg-type]
    with pytest.raises(WrongKeyError):
        e.refresh(private_key=other_keys.private_key)
    with pytest.raises(WrongKeyError):
        encrypt(X, "key")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOperationError):
        e.decrypt(protocol="mpc", private_key=keys.private_key)
    assert torch.equal(e.decrypt(protocol="paillier", private_key=keys.private_key), X)


def test_numbers_beyond_the_dtype_are_not_rounded_to_infinity(keys: KeyPair) -> None:
    whole = encrypt(torch.tensor([2**62]), keys.public_key) * 4
    with pytest.raises(EncodingRangeError, match="int64"):
        whole.decrypt(private_key=keys.private_key)
    assert whole.double().decrypt(private_key=keys.private_key).item() == 2.0**64
    real = encrypt(torch.tensor([1e30]), keys.public_key, 3, limit=1 << 110) * torch.tensor([10**12])
    with pytest.raises(EncodingRangeError, match="float32"):
        real.decrypt(private_key=keys.private_key)


def test_shared_and_encrypted_tensors_do_not_mix(keys: KeyPair) -> None:
    alice, bob, provider = (sharetorch.VirtualWorker(id=name) for name in ("alice-p", "bob-p", "provider-p"))
    shared = X.share(alice, bob, crypto_provider=provider)  # type: ignore[attr-defined]
    e = encrypt(X, keys.public_key)
    for attempt in (lambda: shared + e, lambda: e + shared, lambda: shared @ e, lambda: e * shared):
        with pytest.raises(ShareTorchError):
            attempt()
    with pytest.raises(ShareTorchError):
        e.share(alice, bob, crypto_provider=provider)  # type: ignore[attr-defined]
    with pytest.raises(ShareTorchError):
        e.fix_precision()  # type: ignore[attr-defined]
    for value in (shared, e):
        with pytest.raises(UnsupportedOperationError):
            encrypt(value, keys.public_key)


def test_a_ciphertext_beyond_its_bound_does_not_decrypt(keys: KeyPair) -> None:
    e = encrypt(torch.tensor([5]), keys.public_key, limit=5)
    forged = type(e)(type(e.content)(e.content.cells, keys.public_key, e.content.scale, 4), e.shape, e.dtype)
    with pytest.raises(CiphertextError):
        forged.decrypt(private_key=keys.private_key)


def test_no_check_is_an_assertion() -> None:
    # python -O removes assertions.
    sources = list(Path(paillier.__file__).parent.glob("*.py"))
    assert len(sources) > 5
    for source in sources:
        assert not [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Assert)], source
