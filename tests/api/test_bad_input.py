"""Bad input gets a typed error that names value, reason and remedy, and leaves everything usable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sharetorch as st
from sharetorch import exceptions as ex
from tests.tensor.tools import ALICE, BOB, CAROL, DAVE, PROVIDER, assert_same, eighths, objects, share

X = eighths(3, 4)
REALS = torch.tensor([1.0, 2.0])

ON_SHARING: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "NaN": (lambda: share(torch.tensor([float("nan")])), ex.NotFiniteError, "nan_to_num"),
    "infinity": (lambda: share(torch.tensor([float("-inf")])), ex.NotFiniteError, "infinity"),
    "too large": (lambda: share(torch.tensor([1e15])), ex.EncodingRangeError, "1e\\+15.*scale the data down"),
    "too large in base 10": (lambda: torch.tensor([1e17]).fix_precision(), ex.EncodingRangeError, "1e\\+17"),
    "integers too large for fixed point": (
        lambda: torch.tensor([2**60]).fix_precision(),
        ex.EncodingRangeError,
        "outside",
    ),
    "NaN in fixed precision": (lambda: torch.tensor([float("nan")]).fix_precision(), ex.NotFiniteError, "NaN"),
    "no party": (lambda: REALS.share(crypto_provider=PROVIDER), ex.MembersError, "at least 2 parties, 0 given"),
    "one party": (lambda: REALS.share(ALICE, crypto_provider=PROVIDER), ex.MembersError, "1 given .alice"),
    "a party twice": (
        lambda: REALS.share(ALICE, ALICE, crypto_provider=PROVIDER),
        ex.MembersError,
        "alice is named twice",
    ),
    "provider among parties": (lambda: REALS.share(ALICE, BOB, crypto_provider=BOB), ex.MembersError, "bob is both"),
    "not a worker": (
        lambda: REALS.share(ALICE, "bob", crypto_provider=PROVIDER),
        ex.MembersError,
        "'bob' is no worker",
    ),
    "provider no worker": (lambda: REALS.share(ALICE, BOB, crypto_provider=3), ex.MembersError, "3 is no worker"),
    "a list of workers": (lambda: REALS.share([ALICE, BOB], crypto_provider=PROVIDER), ex.MembersError, "no worker"),
    "complex": (lambda: share(torch.tensor([1j])), ex.UnsupportedDtypeError, "real and imaginary"),
    "complex in fixed precision": (lambda: torch.tensor([1j]).fix_precision(), ex.UnsupportedDtypeError, "complex"),
    "unknown protocol": (lambda: share(REALS, protocol="falcon"), ex.UnsupportedOperationError, "'securenn'"),
    "plaintext is no protocol": (
        lambda: share(REALS, protocol="plaintext"),
        ex.UnsupportedOperationError,
        "not available",
    ),
    "modulus 1": (lambda: share(torch.tensor([1]), field=1), ex.ModulusError, "1"),
    "negative modulus": (lambda: share(torch.tensor([1]), field=-7), ex.ModulusError, "-7"),
    "modulus 0": (lambda: share(torch.tensor([1]), field=0), ex.ModulusError, "0"),
    "precision too large": (lambda: share(REALS, precision=31), ex.EncodingError, "31 digits.*at most 30"),
    "negative precision": (lambda: share(REALS, precision=-1), ex.EncodingError, "-1"),
    "precision no number": (lambda: share(REALS, precision="high"), ex.EncodingError, "'high'"),
    "decimal precision too large": (
        lambda: REALS.fix_precision(precision_fractional=10),
        ex.EncodingError,
        "at most 9",
    ),
    "base 3": (lambda: REALS.fix_precision(base=3), ex.EncodingError, "base=3"),
    "shared already": (lambda: share(share(REALS)), ex.UnsupportedOperationError, "shared already"),
    "fix precision of shared": (lambda: share(REALS).fix_precision(), ex.EncodingError, "encoding already"),
    "fix precision twice": (lambda: REALS.fix_precision().fix_precision(), ex.EncodingError, "encoding already"),
    "unknown truncation": (
        lambda: share(REALS, truncation="best") * share(REALS, truncation="best"),
        ex.ShareTorchError,
        "'best'",
    ),
    "shares of 32 bits": (lambda: share(REALS, dtype="int"), ex.UnsupportedOperationError, "64 bits"),
    "unknown option": (lambda: share(REALS, colour="red"), TypeError, "colour"),
    "sparse": (lambda: share(torch.eye(2).to_sparse()), ex.UnsupportedDtypeError, "to_dense"),
}


@pytest.mark.parametrize("name", ON_SHARING)
def test_on_sharing(name):
    action, error, message = ON_SHARING[name]
    kept = share(X)
    before = objects()
    with pytest.raises(error, match=message):
        action()
    assert objects() == before
    assert_same(kept + share(X), 2 * X)


def _three(x: torch.Tensor, **options: Any) -> Any:
    return x.share(ALICE, BOB, CAROL, crypto_provider=PROVIDER, **options)


def _field(x: torch.Tensor) -> Any:
    return x.share(ALICE, BOB, crypto_provider=PROVIDER, field=1000003)


WHOLE = torch.tensor([[1, 2], [3, 4]])
ON_OPERATIONS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "other parties": (
        lambda: share(X) + X.share(ALICE, CAROL, crypto_provider=PROVIDER),
        ex.PartiesMismatchError,
        "alice, carol",
    ),
    "parties in another order": (
        lambda: share(X) + X.share(BOB, ALICE, crypto_provider=PROVIDER),
        ex.PartiesMismatchError,
        "bob, alice",
    ),
    "more parties": (lambda: share(X) * _three(X), ex.PartiesMismatchError, "alice, bob, carol"),
    "other provider": (
        lambda: share(X) @ X.t().share(ALICE, BOB, crypto_provider=DAVE),
        ex.PartiesMismatchError,
        "provider dave",
    ),
    "other protocol": (
        lambda: share(X) + share(X, protocol="securenn-paper"),
        ex.SessionMismatchError,
        "securenn-paper",
    ),
    "other field": (lambda: share(WHOLE) + _field(WHOLE), ex.SessionMismatchError, "same protocol and field"),
    "cat of other parties": (lambda: torch.cat([share(X), _three(X)]), ex.PartiesMismatchError, "share both"),
    "where of other parties": (lambda: torch.where(X > 0, share(X), _three(X)), ex.PartiesMismatchError, "share both"),
    "writing of other parties": (lambda: share(X).copy_(_three(X)), ex.PartiesMismatchError, "share both"),
    "comparison of other parties": (lambda: share(X) > _three(X), ex.PartiesMismatchError, "share both"),
    "division of other parties": (lambda: share(X) / _three(X), ex.PartiesMismatchError, "share both"),
    "other precision": (
        lambda: share(X) + share(X, precision=12),
        ex.PrecisionMismatchError,
        "16 bits, the other 12 bits",
    ),
    "product of other precision": (lambda: share(X) * share(X, precision=12), ex.PrecisionMismatchError, "same base"),
    "other base": (lambda: share(X) + share(X.fix_precision()), ex.PrecisionMismatchError, "3 decimal digits"),
    "other base, local": (lambda: share(X) + X.fix_precision(), ex.PrecisionMismatchError, "3 decimal digits"),
    "broadcasting": (lambda: share(X) + share(eighths(2, 4)), ex.ShapeError, "3.*2"),
    "broadcasting plain": (lambda: share(X) * eighths(5), ex.ShapeError, "5"),
    "broadcasting in comparison": (lambda: share(X) >= share(eighths(2, 4)), ex.ShapeError, "3"),
    "broadcasting in where": (lambda: torch.where(share(X) > 0, share(eighths(2, 4)), share(X)), ex.ShapeError, "3"),
    "matmul": (lambda: share(X) @ share(X), ex.ShapeError, "3x4"),
    "bmm": (lambda: torch.bmm(share(X)[None], share(X)[None]), ex.ShapeError, "bmm"),
    "cat": (lambda: torch.cat([share(X), share(eighths(3, 5))]), ex.ShapeError, "cat"),
    "dimension": (lambda: share(X).sum(5), (ex.ShapeError, IndexError), "range"),
    "maximum of nothing": (lambda: share(torch.zeros(0)).max(), ex.ShapeError, "no elements"),
    "division by 0": (lambda: share(X) / 0, ex.DivisionByZeroError, "0"),
    "division by 0.0": (lambda: share(X) / torch.tensor(0.0), ex.DivisionByZeroError, "0"),
    "division by a tensor with 0": (lambda: share(X) / torch.tensor([1.0, 0, 1, 1]), ex.DivisionByZeroError, "holds 0"),
    "division by 0 in place": (lambda: share(X).div_(0), ex.DivisionByZeroError, "0"),
    "infinite factor": (lambda: share(X) * float("inf"), ex.NotFiniteError, "finite"),
    "infinite factor of integers": (lambda: share(WHOLE) * float("nan"), ex.NotFiniteError, "NaN"),
    "infinite summand": (lambda: share(X) + float("inf"), ex.NotFiniteError, "infinity"),
    "NaN in a plain operand": (lambda: share(X) * torch.full((4,), float("nan")), ex.NotFiniteError, "NaN"),
    "NaN in a comparison": (lambda: share(X) > float("nan"), ex.NotFiniteError, "NaN"),
    "summand too large": (lambda: share(X) + 1e16, ex.EncodingRangeError, "1e\\+16"),
    "factor too large": (lambda: share(X) * 2.0**63, ex.EncodingRangeError, "outside"),
    "complex operand": (lambda: share(X) * torch.tensor([1j]), TypeError, "unsupported"),
    "complex number": (lambda: torch.mul(share(X), 1j), ex.UnsupportedDtypeError, "complex"),
    "writing NaN": (lambda: share(X).fill_(float("nan")), ex.NotFiniteError, "NaN"),
    "text": (lambda: share(X) + "1", TypeError, "str"),
    "None": (lambda: share(X) * None, TypeError, "None"),
    "comparison with three parties": (lambda: _three(X, protocol="securenn") > 0, ex.ShareTorchError, "2 parties"),
    "relu with three parties": (lambda: _three(X, protocol="fss").relu().get(), ex.ShareTorchError, "2 parties"),
    "local truncation with three parties": (
        lambda: _three(X, truncation="local") * _three(X, truncation="local"),
        ex.ShareTorchError,
        "2 parties",
    ),
    "reals in a field": (lambda: _field(X) * _field(X), ex.ShareTorchError, "field"),
    "comparison in a field": (lambda: _field(WHOLE) > 0, ex.ShareTorchError, "."),
}


@pytest.mark.parametrize("name", ON_OPERATIONS)
def test_on_operations(name):
    action, error, message = ON_OPERATIONS[name]
    kept = share(X)
    before = objects()
    with pytest.raises(error, match=message):
        action()
    assert objects() == before
    assert_same(kept * share(X), X * X)
    assert_same(_three(X) * _three(X), X * X)


def test_handles_of_objects_that_are_gone():
    x, y = share(X), share(X)
    BOB.store.pop(x.handle.number)
    for use in (
        lambda: x.get(),
        lambda: x + 1,
        lambda: x * y,
        lambda: y - x,
        lambda: x.relu().get(),
        lambda: x.view(-1),
        lambda: x.add_(1),
    ):
        with pytest.raises(ex.ObjectGoneError, match="bob no longer holds"):
            use()
    assert_same(y, X)


def test_views_of_an_object_that_is_gone_stay_usable():
    x = share(X)
    row = x[0]
    del x
    assert_same(row, X[0])


DTYPES = [
    (torch.float64, torch.float64),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.uint8, torch.int64),
    (torch.int8, torch.int64),
    (torch.int16, torch.int64),
    (torch.int32, torch.int64),
    (torch.bool, torch.int64),
]


@pytest.mark.parametrize(("given", "back"), DTYPES)
def test_dtypes(given, back):
    x = torch.tensor([0, 1, 1, 0]).to(given) if given == torch.bool else torch.tensor([0, 1, 2, 3]).to(given)
    secret = share(x)
    assert secret.dtype == back
    opened = secret.get()
    assert opened.dtype == back
    assert torch.equal(opened, x.to(back))
    assert_same((secret * secret).sum(), (x.to(back) * x.to(back)).sum())


def test_shared_booleans_are_bits():
    a, b = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    assert_same(share(a) & share(b), (a & b).long())
    assert_same(~share(a), (~a).long())
    assert_same(torch.where(share(a), torch.ones(3), torch.zeros(3)), a.float())


def test_boundaries_of_the_encoding():
    largest = 2.0**46 - 2.0**22
    x = torch.tensor([largest, -largest, 2.0**-16, -(2.0**-16), 0.0])
    assert torch.equal(share(x).get(), x)
    whole = torch.tensor([2**63 - 1, -(2**63), 0])
    assert torch.equal(share(whole).get(), whole)


def test_inputs_are_not_changed_and_results_are_new():
    x = X.clone()
    secret = share(x)
    x.zero_()
    assert_same(secret, X)
    opened = secret.get()
    opened.zero_()
    assert_same(secret, X)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 0, 2)])
def test_empty_and_zero_dim(shape):
    x = torch.ones(shape)
    assert_same(share(x) * 2 + share(x), 3 * x)
    assert_same(share(x.long()), x.long())
    assert share(x).get().shape == x.shape


# --------------------------------------------------------------------------------------------------------------- memory

EXPRESSIONS: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda x: (x + 1) * x - x / 3,
    "products": lambda x: x @ x.t() @ x,
    "comparison": lambda x: (x > 0) & (x < 1),
    "relu": lambda x: x.relu().abs(),
    "maximum": lambda x: x.max(1),
    "views": lambda x: x.t()[1:].reshape(-1)[::2],
    "writing": lambda x: x.clone().add_(1).mul_(x),
    "division": lambda x: 1 / (x * x + 1),
    "pool": lambda x: torch.nn.functional.max_pool2d(x[None, None], 2),
    "iteration": lambda x: [row.sum() for row in x],
    "get": lambda x: x.get(),
    "repr": lambda x: repr(x),
    "cummax refused": lambda x: _refused(lambda: x.cummax(0)),
    "shape refused": lambda x: _refused(lambda: (x * 2) @ (x + 1)),
    "members refused": lambda x: _refused(lambda: x * 2 + _three(X)),
}


def _refused(action: Callable[[], Any]) -> None:
    with pytest.raises(st.ShareTorchError):
        action()


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_dropped_tensors_free_their_objects(name):
    x = share(X)
    before = objects()
    result = EXPRESSIONS[name](x)
    del result
    assert objects() == before


def test_everything_is_freed_in_the_end():
    before = objects()
    x = share(X)
    y = (x @ x.t()).relu().sum()
    del x, y
    assert objects() == before
