"""Linear regression over the rows of several owners: the data are sent, fitted in shares, and used at their workers."""

from typing import Any

import numpy as np
import pytest
import torch

import sharetorch as sy
from sharetorch.frameworks.torch.linalg import DASH, EncryptedLinearRegression

sklearn = pytest.importorskip("sklearn")
hook = sy.TorchHook(torch)


def workers() -> list[sy.VirtualWorker]:
    return [sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "theo", "crypto_provider", "hbc_worker")]


def test_coefficients_are_those_of_scikit_learn(capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import LinearRegression

    alice, bob, theo, crypto_prov, hbc_worker = workers()
    table, progress = load_diabetes(return_X_y=True)
    X, y = torch.tensor(table).float() * 20, torch.tensor(progress).float() / 100
    X_ptrs = [part.send(owner) for part, owner in zip(X.split(150), (alice, bob, theo), strict=True)]
    y_ptrs = [part.send(owner) for part, owner in zip(y.split(150), (alice, bob, theo), strict=True)]

    # each owner could scale at home: only results of operations there are used
    X_ptrs = [ptr / 2.0 for ptr in X_ptrs]
    fitted = EncryptedLinearRegression(crypto_provider=crypto_prov, hbc_worker=hbc_worker)
    fitted.fit(X_ptrs, y_ptrs)

    reference = LinearRegression().fit(X.numpy() / 2, y.numpy())
    assert np.abs(fitted.coef.numpy() / reference.coef_ - 1).max() < 0.002
    assert abs(float(fitted.intercept) / reference.intercept_ - 1) < 0.002
    assert fitted.se_coef.shape == fitted.pvalue_coef.shape == (10,)
    assert float(fitted.se_intercept) > 0 and float(fitted.pvalue_intercept) < 1e-6

    fitted.summarize()
    text = capsys.readouterr().out
    assert "coef" in text.lower() and "intercept" in text.lower()
    predicted_here = fitted.predict(X[:5] / 2)
    predicted_there = fitted.predict(X_ptrs[1])
    assert predicted_there.location is bob
    assert np.abs(predicted_here.numpy().reshape(-1) - reference.predict(X[:5].numpy() / 2)).max() < 0.01
    assert np.abs(predicted_there.get().numpy().reshape(-1) - reference.predict(X[150:300].numpy() / 2)).max() < 0.01


def test_scaling_by_statistics_of_the_worker() -> None:
    alice, *_ = workers()
    x = torch.tensor([[10.0, 1.0], [20.0, 3.0], [30.0, 5.0]]).send(alice)
    scale = x.max()
    scaled: Any = x / scale
    assert scaled.location is alice
    assert scaled.copy().get().max().item() == 1.0
    assert (scaled / 2.0).get().max().item() == 0.5
    assert x.copy().get().tolist() == x.get().tolist()


def test_without_a_constant() -> None:
    alice, bob, _, crypto_prov, hbc_worker = workers()
    X = torch.randn(60, 3)
    y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(60)
    fitted = EncryptedLinearRegression(
        crypto_provider=crypto_prov, hbc_worker=hbc_worker, precision_fractional=6, fit_intercept=False
    )
    fitted.fit([X[:30].send(alice), X[30:].send(bob)], [y[:30].send(alice), y[30:].send(bob)])
    expected = np.linalg.lstsq(X.double().numpy(), y.double().numpy(), rcond=None)[0]
    assert np.abs(fitted.coef.numpy() / expected - 1).max() < 0.002
    assert fitted.intercept is None


def test_a_scan_of_many_columns() -> None:
    alice, bob, _, crypto_prov, hbc_worker = workers()
    candidates, permanent = torch.randn(80, 6), torch.cat([torch.ones(80, 1), torch.randn(80, 1)], dim=1)
    y = candidates[:, 4] + permanent[:, 1] + 0.3 * torch.randn(80)
    scan = DASH(crypto_provider=crypto_prov, hbc_worker=hbc_worker)
    split = [(slice(0, 40), alice), (slice(40, 80), bob)]
    scan.fit(*([table[rows].send(owner) for rows, owner in split] for table in (candidates, permanent, y)))
    assert int(scan.pvalue.argmin()) == 4
