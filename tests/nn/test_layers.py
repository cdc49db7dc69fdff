"""Every supported layer, forward and backward against torch; parameters and inputs shared, or one of them public."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import sharetorch as st
from sharetorch.nn import support
from tests.autograd.tools import weighted
from tests.tensor.tools import HOLDERS, PROVIDER, UNIT, assert_same, eighths, share

VECTORS, IMAGES, LINES = eighths(6, 4) + 1 / 16, eighths(2, 3, 6, 6) + 1 / 16, eighths(2, 3, 8) + 1 / 16
DISTINCT = torch.randperm(2 * 3 * 36, generator=torch.Generator().manual_seed(3)).reshape(2, 3, 6, 6) / 16.0 - 6

# Layer, input, bound in units of 2^-16 (weights are any reals, rounded by half a unit).
LAYERS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, float]] = {
    "Linear": (lambda: nn.Linear(4, 3), VECTORS, 16),
    "Linear no bias": (lambda: nn.Linear(4, 3, bias=False), VECTORS, 16),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), LINES, 60),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), IMAGES, 100),
    "Conv2d groups": (lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), IMAGES, 100),
    "ReLU": (lambda: nn.ReLU(), VECTORS, 0),
    "ReLU6": (lambda: nn.ReLU6(), VECTORS, 0),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.1), VECTORS, 3),
    "Hardtanh": (lambda: nn.Hardtanh(), VECTORS, 0),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), LINES + torch.arange(8) / 32, 0),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), DISTINCT, 0),
    "MaxPool2d padding": (lambda: nn.MaxPool2d(3, 2, 1), DISTINCT, 0),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), LINES, 1),
    "AvgPool2d": (lambda: nn.AvgPool2d(3), IMAGES, 4),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(2), LINES, 2),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), IMAGES, 4),
    "AdaptiveAvgPool2d 1": (lambda: nn.AdaptiveAvgPool2d(1), IMAGES, 4),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(2), LINES + torch.arange(8) / 32, 0),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), DISTINCT, 0),
    "Flatten": (lambda: nn.Flatten(), IMAGES, 0),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), VECTORS, 0),
    "Identity": (lambda: nn.Identity(), VECTORS, 0),
    "Dropout eval": (lambda: nn.Dropout(0.5).eval(), VECTORS, 0),
    "ZeroPad1d": (lambda: nn.ZeroPad1d(1), LINES, 0),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), IMAGES, 0),
    "ConstantPad1d": (lambda: nn.ConstantPad1d(1, 0.5), LINES, 0),
    "ConstantPad2d": (lambda: nn.ConstantPad2d(1, 0.5), IMAGES, 0),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), VECTORS, 60),
    "BatchNorm1d lines": (lambda: nn.BatchNorm1d(3), LINES, 60),
    "BatchNorm1d eval": (lambda: nn.BatchNorm1d(4).eval(), VECTORS, 60),
    "BatchNorm1d plain affine": (lambda: nn.BatchNorm1d(4, affine=False), VECTORS, 60),
    "BatchNorm1d no statistics": (lambda: nn.BatchNorm1d(4, track_running_stats=False), VECTORS, 60),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), IMAGES, 100),
    "BatchNorm2d eval": (lambda: nn.BatchNorm2d(3).eval(), IMAGES, 60),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), VECTORS, 60),
    "convolutional": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)),
        DISTINCT,
        200,
    ),
}


def _made(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor, float]:
    make, x, units = LAYERS[name]
    torch.manual_seed(7)
    plain = make()
    for module in plain.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return plain, copy.deepcopy(plain), x, units * UNIT


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("public", ["nothing", "input", "model"])
def test_layers(name, public):
    plain, ours, x, bound = _made(name)
    normalises = any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in plain.modules())
    updates = normalises and plain.training and any(True for _ in plain.buffers())
    if public != "model":
        ours.share(*HOLDERS, crypto_provider=PROVIDER)
    elif updates:
        with pytest.raises(st.exceptions.MismatchError, match="share the model"):
            ours(share(x))
        return
    if public == "input" and not list(plain.parameters()):
        return
    z = x.clone().requires_grad_(True)
    secret = (x.clone() if public == "input" else share(x)).requires_grad_(True)
    expected, actual = plain(z), ours(secret)
    assert isinstance(actual, st.SharedTensor)
    assert_same(actual, expected, bound)
    weighted(expected).backward()
    weighted(actual).backward()
    assert_same(secret.grad, z.grad, bound)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert isinstance(one.grad, st.SharedTensor)
        assert_same(one.grad, other.grad, 4 * bound)
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        assert_same(one, other, 20 * UNIT)


def test_every_supported_layer_is_covered():
    covered = {type(module) for make, _, _ in LAYERS.values() for module in make().modules()}
    elsewhere = {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MSELoss, nn.L1Loss}
    assert set(support.SUPPORTED) <= covered | elsewhere


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.MSELoss(reduction="sum"), nn.MSELoss(reduction="none"), nn.L1Loss()])
@pytest.mark.parametrize("target_shared", [True, False])
def test_losses(loss, target_shared):
    x, target = VECTORS, eighths(6, 4, seed=2)
    z, secret = x.clone().requires_grad_(True), share(x).requires_grad_(True)
    expected, actual = loss(z, target), loss(secret, share(target) if target_shared else target)
    assert_same(actual, expected, 10 * UNIT)
    expected.sum().backward()
    actual.sum().backward()
    assert_same(secret.grad, z.grad, 10 * UNIT)


@pytest.mark.parametrize("layer", [nn.Dropout(0.25), nn.Dropout1d(0.5), nn.Dropout2d(0.5)])
def test_dropout_in_training(layer):
    x = torch.ones(4, 6, 3) if isinstance(layer, nn.Dropout1d) else torch.ones(4, 6, 3, 3)
    secret = share(x).requires_grad_(True)
    result = layer(secret)
    kept = result.detach().get()
    values = torch.unique(kept)
    assert all(min(abs(float(v)), abs(float(v) - 1 / (1 - layer.p))) < 2 * UNIT for v in values)
    assert 0 < float((kept > 0).float().mean()) < 1
    if not isinstance(layer, nn.Dropout):
        assert torch.equal(kept.flatten(2).amax(2), kept.flatten(2).amin(2))
    result.sum().backward()
    assert_same(secret.grad, kept, 2 * UNIT)
    layer.eval()
    assert_same(layer(secret), x)


def test_batch_normalisation_over_several_batches():
    torch.manual_seed(0)
    plain = nn.BatchNorm1d(3)
    ours = copy.deepcopy(plain).share(*HOLDERS, crypto_provider=PROVIDER)
    for seed in range(4):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(seed)) * 2 + 1
        plain(x)
        ours(share(x))
    assert int(ours.num_batches_tracked) == 4
    assert_same(ours.running_mean, plain.running_mean, 20 * UNIT)
    assert_same(ours.running_var, plain.running_var, 60 * UNIT)
    plain.eval()
    ours.eval()
    assert_same(ours(share(x)), plain(x), 60 * UNIT)


def test_cumulative_batch_statistics():
    plain = nn.BatchNorm1d(3, momentum=None)
    ours = copy.deepcopy(plain).share(*HOLDERS, crypto_provider=PROVIDER)
    for seed in range(3):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(seed))
        plain(x)
        ours(share(x))
    assert_same(ours.running_mean, plain.running_mean, 20 * UNIT)


def test_batch_of_one_is_refused():
    layer = nn.BatchNorm1d(3).share(*HOLDERS, crypto_provider=PROVIDER)
    with pytest.raises((st.exceptions.ShapeError, ValueError)):
        layer(share(torch.ones(1, 3)))
