"""The same models over data that stay with remote owners."""

import math

import pytest
import torch
from torch import Tensor

import sharetorch as st
from sharetorch.nn.linalg import DASH, EncryptedLinearRegression
from tests.nn.linalg.reference import ALICE, BOB, HONEST, PROVIDER, least_squares, require_close, results


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(60, 2)
    return x, x.sum(1) + 2 + torch.randn(60)


def test_fit_and_predict_where_the_data_are(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    xs, ys = ([x[:20].send(ALICE), x[20:].send(BOB)], [y[:20].send(ALICE), y[20:].send(BOB)])
    model = EncryptedLinearRegression(PROVIDER, HONEST).fit(xs, ys)
    require_close(results(model), least_squares(x, y), 2e-4)
    predicted = model.predict(xs[1])
    assert predicted.location is BOB
    assert torch.allclose(predicted.get(), x[20:] @ model.coef + model.intercept, atol=1e-5)
    assert torch.equal(xs[1].get(), x[20:])


def test_the_first_owner_and_the_honest_worker_hold_the_shares(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    from sharetorch.mpc.tensor.sharing import session_for

    with session_for((BOB, HONEST), PROVIDER).record() as transcript:
        EncryptedLinearRegression(PROVIDER, HONEST).fit([x.send(BOB)], [y.send(BOB)])
    assert {message.receiver for message in transcript} >= {0, 1}


def test_scan(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    ones = torch.ones(30, 1)
    parts = ([x[:30].send(ALICE), x[30:].send(BOB)], [ones.send(ALICE), ones.send(BOB)])
    found = DASH(PROVIDER, HONEST).fit(*parts, [y[:30].send(ALICE), y[30:].send(BOB)])
    for j in range(2):
        expected = least_squares(x[:, j : j + 1], y)
        assert float(found.coef[j]) == pytest.approx(expected.coef[0], rel=1e-4)
        assert float(found.se[j]) == pytest.approx(expected.se[0], rel=1e-4)


def test_an_owner_refuses_nan(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    x[3, 1] = math.nan
    with pytest.raises(st.exceptions.NotFiniteError):
        EncryptedLinearRegression(PROVIDER, HONEST).fit([x.send(ALICE)], [y.send(ALICE)])


def test_all_data_at_the_honest_worker_need_a_second_party(data: tuple[Tensor, Tensor]) -> None:
    x, y = (part.send(HONEST) for part in data)
    with pytest.raises(st.exceptions.MembersError, match="parties="):
        EncryptedLinearRegression(PROVIDER, HONEST).fit([x], [y])
