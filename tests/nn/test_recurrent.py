"""Recurrent cells and networks built of Linear: equal to torch.nn in the clear, close to it on shared tensors."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hst
from torch import nn

import sharetorch as st
from sharetorch.nn import layers, recurrent, recurrent_cells, support
from tests.tensor.tools import ALICE, HOLDERS, PROVIDER, UNIT, assert_same, share

NETWORKS = {"RNN": (recurrent.RNN, nn.RNN), "GRU": (recurrent.GRU, nn.GRU), "LSTM": (recurrent.LSTM, nn.LSTM)}
CELLS = {
    "RNNCell": (recurrent_cells.RNNCell, nn.RNNCell),
    "GRUCell": (recurrent_cells.GRUCell, nn.GRUCell),
    "LSTMCell": (recurrent_cells.LSTMCell, nn.LSTMCell),
}
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-12}
HARD = {"activation": nn.Hardtanh(), "gate_activation": layers.Hardsigmoid()}
SIGMOID_IS_SECURE = nn.Sigmoid in support.SUPPORTED


def flat(result):
    if isinstance(result, (tuple, list)):
        return [part for one in result for part in flat(one)]
    return [result]


def weighted(results):
    """A number of the size of one element that depends on every element, each with a weight of its own."""
    total = 0
    for part in flat(results):
        weights = (torch.arange(part.numel()) % 7 - 3).reshape(part.shape).to(part.dtype) / 4 + 0.125
        total = total + (part * weights).sum() / part.numel()
    return total


def assert_equal_to_torch(ours, plain, names, inputs, bound):
    """Results, gradients of the inputs and of the parameters are the same within ``bound`` of their size."""
    mine = [x.clone().requires_grad_(True) for x in inputs]
    theirs = [x.clone().requires_grad_(True) for x in inputs]
    pairs = []
    for network, operands in ((ours, mine), (plain, theirs)):
        x, *state = operands
        results = network(x, tuple(state) if len(state) == 2 else state[0] if state else None)
        weighted(results).backward()
        pairs.append(flat(results) + [x.grad for x in operands])
    gradients = dict(plain.named_parameters())
    pairs[0] += [tensor.grad for tensor in names.values()]
    pairs[1] += [gradients[name].grad for name in names]
    assert len(names) == len(gradients)
    for one, other in zip(*pairs, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert (one - other).abs().max().item() <= bound * max(1.0, other.abs().max().item())


@settings(max_examples=60, deadline=None)
@given(
    kind=hst.sampled_from([*NETWORKS, "RNN relu"]),
    sizes=hst.tuples(*[hst.integers(1, 4)] * 4),
    num_layers=hst.integers(1, 3),
    bias=hst.booleans(),
    batch_first=hst.booleans(),
    bidirectional=hst.booleans(),
    batched=hst.booleans(),
    with_state=hst.booleans(),
    dtype=hst.sampled_from([torch.float32, torch.float64]),
    seed=hst.integers(0, 2**16),
)
def test_networks_equal_torch(
    kind, sizes, num_layers, bias, batch_first, bidirectional, batched, with_state, dtype, seed
):
    time, batch, features, hidden = sizes
    options = {"nonlinearity": "relu"} if kind == "RNN relu" else {}
    ours_kind, plain_kind = NETWORKS[kind.split()[0]]
    torch.manual_seed(seed)
    options |= {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional, "dtype": dtype}
    plain = plain_kind(features, hidden, num_layers, **options)
    ours = ours_kind.from_torch(plain)
    shape = (time, features) if not batched else (batch, time, features) if batch_first else (time, batch, features)
    count = num_layers * (2 if bidirectional else 1)
    state = (count, batch, hidden) if batched else (count, hidden)
    parts = (2 if kind == "LSTM" else 1) * with_state
    inputs = [torch.randn(shape, dtype=dtype), *(torch.randn(state, dtype=dtype) for _ in range(parts))]
    assert_equal_to_torch(ours, plain, ours.named(), inputs, BOUNDS[dtype])


@settings(max_examples=40, deadline=None)
@given(
    kind=hst.sampled_from([*CELLS, "RNNCell relu"]),
    sizes=hst.tuples(*[hst.integers(1, 5)] * 3),
    bias=hst.booleans(),
    batched=hst.booleans(),
    with_state=hst.booleans(),
    dtype=hst.sampled_from([torch.float32, torch.float64]),
    seed=hst.integers(0, 2**16),
)
def test_cells_equal_torch(kind, sizes, bias, batched, with_state, dtype, seed):
    batch, features, hidden = sizes
    options = {"nonlinearity": "relu"} if kind == "RNNCell relu" else {}
    ours_kind, plain_kind = CELLS[kind.split()[0]]
    torch.manual_seed(seed)
    plain = plain_kind(features, hidden, bias, dtype=dtype, **options)
    ours = ours_kind.from_torch(plain)
    lead = (batch,) if batched else ()
    parts = (2 if kind == "LSTMCell" else 1) * with_state
    widths = [features] + [hidden] * parts
    inputs = [torch.randn(*lead, width, dtype=dtype) for width in widths]
    assert_equal_to_torch(ours, plain, ours.named(), inputs, BOUNDS[dtype])


@pytest.mark.parametrize("kind", NETWORKS)
def test_there_and_back(kind):
    ours_kind, plain_kind = NETWORKS[kind]
    plain = plain_kind(3, 4, 2, batch_first=True, bidirectional=True, dropout=0.25).eval()
    back = ours_kind.from_torch(plain).to_torch()
    assert str(back) == str(plain)
    assert not back.training
    assert list(back.state_dict()) == list(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert back.state_dict()[name].data_ptr() != tensor.data_ptr()


def test_there_and_back_with_relu():
    assert recurrent.RNN(3, 4, nonlinearity="relu").to_torch().nonlinearity == "relu"
    assert recurrent_cells.RNNCell(3, 4, nonlinearity="relu").to_torch().nonlinearity == "relu"
    assert recurrent_cells.RNNCell.from_torch(nn.RNNCell(3, 4, nonlinearity="relu")).nonlinearity == "relu"


@pytest.mark.parametrize("kind", CELLS)
def test_cells_there_and_back(kind):
    ours_kind, plain_kind = CELLS[kind]
    plain = plain_kind(3, 4, bias=False, dtype=torch.float64)
    back = ours_kind.from_torch(plain).to_torch()
    assert str(back) == str(plain)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_state_dict_of_torch_can_be_loaded(kind):
    ours_kind, plain_kind = NETWORKS[kind]
    plain, ours = plain_kind(3, 4, 2, bias=False), ours_kind(3, 4, 2, bias=False)
    ours.load(plain.state_dict())
    x = torch.randn(5, 2, 3)
    assert torch.allclose(ours(x)[0], plain(x)[0], atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_its_own_state_dict_round_trips(kind):
    ours_kind, _ = NETWORKS[kind]
    one, other = ours_kind(3, 4, 2), ours_kind(3, 4, 2)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(5, 2, 3)
    assert torch.equal(one(x)[0], other(x)[0])


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_seed_draws_the_same_parameters(kind):
    ours_kind, plain_kind = NETWORKS[kind]
    torch.manual_seed(3)
    plain = plain_kind(3, 16, 2, bidirectional=True)
    torch.manual_seed(3)
    ours = ours_kind(3, 16, 2, bidirectional=True)
    for name, tensor in plain.named_parameters():
        assert torch.equal(ours.named()[name], tensor)


@pytest.mark.parametrize("kind", [*NETWORKS, *CELLS])
def test_parameters_are_uniform_up_to_one_over_the_root_of_the_hidden_size(kind):
    ours = {**NETWORKS, **CELLS}[kind][0](100, 25)
    before = {name: tensor.clone() for name, tensor in ours.named().items()}
    ours.reset_parameters()
    for name, tensor in ours.named().items():
        assert 0.15 < tensor.abs().max().item() <= 0.2
        assert not torch.equal(before[name], tensor)
    weight = ours.named()["weight_ih" if "Cell" in kind else "weight_ih_l0"]
    assert abs(weight.std().item() - 0.2 / 3**0.5) < 0.01


@pytest.mark.parametrize("kind", NETWORKS)
def test_dropout_lies_between_layers(kind):
    ours_kind, plain_kind = NETWORKS[kind]
    plain = plain_kind(3, 4, 2, dropout=1.0)
    ours = ours_kind.from_torch(plain)
    x = torch.randn(5, 2, 3)
    assert torch.allclose(ours(x)[0], plain(x)[0], atol=1e-6)
    whole = plain.eval()(x)[0]
    assert not torch.allclose(ours(x)[0], whole, atol=1e-3)
    assert torch.allclose(ours.eval()(x)[0], whole, atol=1e-6)


def test_dropout_drops_the_asked_for_share():
    ours = recurrent.RNN(1, 400, 2, dropout=0.25)
    seen = []
    ours.between.register_forward_hook(lambda module, args, result: seen.append((result == 0).float().mean().item()))
    ours(torch.randn(20, 1, 1))
    assert len(seen) == 1
    assert abs(seen[0] - 0.25) < 0.03


# --------------------------------------------------------------------------------------------------- on shared tensors


def encrypted_and_plain(network, x):
    """Results and gradients of shared copies beside those in the clear, one backward pass each."""
    secret = copy.deepcopy(network).share(*HOLDERS, crypto_provider=PROVIDER)
    z, hidden = x.clone().requires_grad_(True), share(x).requires_grad_(True)
    expected, actual = network(z), secret(hidden)
    weighted(expected).backward()
    weighted(actual).backward()
    return flat(expected), flat(actual), (network, z), (secret, hidden)


def assert_close_when_shared(network, x, forward_units, backward_units):
    expected, actual, (plain, z), (secret, hidden) = encrypted_and_plain(network, x)
    for one, other in zip(actual, expected, strict=True):
        assert isinstance(one, st.SharedTensor)
        assert_same(one, other, forward_units * UNIT)
    assert_same(hidden.grad, z.grad, backward_units * UNIT)
    for one, other in zip(secret.parameters(), plain.parameters(), strict=True):
        assert isinstance(one.grad, st.SharedTensor)
        assert_same(one.grad, other.grad, backward_units * UNIT)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_an_rnn_with_relu_runs_encrypted(options):
    torch.manual_seed(4)
    assert_close_when_shared(recurrent.RNN(3, 4, nonlinearity="relu", **options), torch.randn(3, 2, 3), 30, 60)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_gated_networks_run_encrypted_with_hard_activations(kind, options):
    torch.manual_seed(5)
    assert_close_when_shared(NETWORKS[kind][0](3, 4, **options, **HARD), torch.randn(3, 2, 3), 30, 60)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_an_encrypted_step_of_sgd_follows_the_plain_one(kind):
    torch.manual_seed(6)
    network = NETWORKS[kind][0](2, 3, **HARD)
    optimizers = []
    x = torch.randn(2, 2, 2)
    secret = copy.deepcopy(network).share(*HOLDERS, crypto_provider=PROVIDER)
    for model, data in ((network, x), (secret, share(x))):
        optimizers.append(torch.optim.SGD(model.parameters(), lr=0.5))
        weighted(model(data)).backward()
        optimizers[-1].step()
    for one, other in zip(secret.parameters(), network.parameters(), strict=True):
        assert_same(one, other, 40 * UNIT)
    opened = secret.get()
    assert_same(opened(x)[0], network(x)[0], 200 * UNIT)


@pytest.mark.parametrize("kind", NETWORKS)
def test_public_models_on_shared_data_and_shared_models_on_public_data(kind):
    torch.manual_seed(7)
    options = {"nonlinearity": "relu"} if kind == "RNN" else HARD
    network, x = NETWORKS[kind][0](3, 4, **options), torch.randn(3, 2, 3)
    with torch.no_grad():
        expected = flat(network(x))
    assert_same(flat(network(share(x))), expected, 30 * UNIT)
    network.share(*HOLDERS, crypto_provider=PROVIDER)
    assert_same(flat(network(x)), expected, 30 * UNIT)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_run_encrypted(kind):
    torch.manual_seed(8)
    options = {"nonlinearity": "relu"} if kind == "RNNCell" else HARD
    assert_close_when_shared(CELLS[kind][0](3, 4, **options), torch.randn(2, 3), 20, 40)


def test_initial_states_may_be_shared():
    torch.manual_seed(9)
    network = recurrent.LSTM(3, 4, **HARD)
    x, h, c = torch.randn(3, 2, 3), torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    with torch.no_grad():
        expected = network(x, (h, c))
    network.share(*HOLDERS, crypto_provider=PROVIDER)
    assert_same(flat(network(share(x), (share(h), share(c)))), flat(expected), 30 * UNIT)


@pytest.mark.skipif(SIGMOID_IS_SECURE, reason="sigmoid and tanh have a secure form")
@pytest.mark.parametrize("kind", NETWORKS)
def test_activations_without_a_secure_form_are_refused_by_name(kind):
    network = NETWORKS[kind][0](3, 4)
    before = [parameter.clone() for parameter in network.parameters()]
    missing = "Tanh" if kind == "RNN" else "Sigmoid"
    with pytest.raises(st.exceptions.UnsupportedLayersError, match=missing):
        network.share(*HOLDERS, crypto_provider=PROVIDER)
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))
    with pytest.raises(st.exceptions.UnsupportedOperationError, match=missing.lower()):
        network(share(torch.randn(3, 2, 3)))


@pytest.mark.skipif(not SIGMOID_IS_SECURE, reason="sigmoid and tanh have no secure form yet")
@pytest.mark.parametrize("kind", NETWORKS)
def test_torch_activations_run_encrypted(kind):
    torch.manual_seed(10)
    network, x = NETWORKS[kind][0](3, 4), torch.randn(2, 2, 3)
    with torch.no_grad():
        expected = network(x)[0]
    network.share(*HOLDERS, crypto_provider=PROVIDER)
    assert_same(network(share(x))[0], expected, 0.02)


def test_a_polynomial_may_be_the_activation():
    torch.manual_seed(11)
    network = recurrent.GRU(3, 4, activation=lambda x: x - x**3 / 8, gate_activation=lambda x: x / 4 + 0.5)
    x = torch.randn(2, 2, 3) / 2
    with torch.no_grad():
        expected = network(x)[0]
    network.share(*HOLDERS, crypto_provider=PROVIDER)
    assert_same(network(share(x))[0], expected, 40 * UNIT)


def test_a_step_costs_the_products_it_needs():
    """All gates of a step in one activation, and the input of all times in one product."""
    x = share(torch.randn(4, 2, 3))
    identity = {"activation": nn.Identity(), "gate_activation": nn.Identity()}
    network = recurrent.LSTM(3, 4, **identity).share(*HOLDERS, crypto_provider=PROVIDER)
    with st.profile() as measured:
        network(x)
    per_step = 3  # h U, gates times (g, c), o times c
    assert measured.rounds == 2 * (1 + 4 * per_step), "two rounds for each product with its truncation"


@pytest.mark.skipif(not hasattr(nn.Module, "send"), reason="modules cannot be sent yet")
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_run_at_a_remote_worker(kind):
    torch.manual_seed(12)
    plain = NETWORKS[kind][0](3, 4, 2, bidirectional=True, batch_first=True)
    x = torch.randn(2, 3, 3)
    remote = copy.deepcopy(plain).send(ALICE)
    expected, actual = plain(x), remote(x.send(ALICE))
    for one, other in zip(flat(actual), flat(expected), strict=True):
        assert one.location is ALICE
        assert torch.allclose(one.copy().get(), other, atol=1e-6)
    expected[0].sum().backward()
    actual[0].sum().backward()
    for one, other in zip(remote.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad.copy().get(), other.grad, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("shape", [(3,), (3, 2, 4), (1, 3, 2, 3), (0, 2, 3), (2, 0, 3)])
def test_inputs_of_another_shape(shape):
    with pytest.raises(st.exceptions.ShapeError, match="input has shape"):
        recurrent.GRU(3, 4)(torch.zeros(shape))


def test_states_of_another_form():
    x = torch.zeros(5, 2, 3)
    with pytest.raises(st.exceptions.ShapeError, match=r"state has shape \(1, 2, 5\); expected \(1, 2, 4\)"):
        recurrent.GRU(3, 4)(x, torch.zeros(1, 2, 5))
    with pytest.raises(st.exceptions.ShapeError, match="pair"):
        recurrent.LSTM(3, 4)(x, torch.zeros(1, 2, 4))
    with pytest.raises(st.exceptions.ShapeError, match="one tensor"):
        recurrent.RNN(3, 4)(x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    with pytest.raises(st.exceptions.ShapeError, match="state has shape"):
        recurrent_cells.GRUCell(3, 4)(torch.zeros(2, 3), torch.zeros(3, 4))
    with pytest.raises(st.exceptions.ShapeError, match="input has shape"):
        recurrent_cells.GRUCell(3, 4)(torch.zeros(2, 4))


def test_settings_that_do_not_exist():
    with pytest.raises(st.exceptions.UnsupportedOperationError, match="proj_size=2"):
        recurrent.LSTM.from_torch(nn.LSTM(3, 4, proj_size=2))
    with pytest.raises(st.exceptions.MismatchError, match=r"LSTM.from_torch takes a torch.nn.LSTM, not a GRU"):
        recurrent.LSTM.from_torch(nn.GRU(3, 4))
    with pytest.raises(st.exceptions.MismatchError, match="RNNCell"):
        recurrent_cells.RNNCell.from_torch(nn.RNN(3, 4))
    with pytest.raises(st.exceptions.UnsupportedOperationError, match="'sine' is neither"):
        recurrent_cells.RNNCell(3, 4, nonlinearity="sine")
    packed = nn.utils.rnn.pack_sequence([torch.zeros(2, 3), torch.zeros(1, 3)])
    with pytest.raises(st.exceptions.UnsupportedOperationError, match="pad"):
        recurrent.GRU(3, 4)(packed)


def test_conversions_that_torch_has_no_form_for():
    with pytest.raises(st.exceptions.UnsupportedOperationError, match="activation and gate_activation"):
        recurrent.GRU(3, 4, **HARD).to_torch()
    shared = recurrent.RNN(3, 4, nonlinearity="relu").share(*HOLDERS, crypto_provider=PROVIDER)
    with pytest.raises(st.exceptions.RevealError, match=r"model.get\(\)"):
        shared.to_torch()
    assert isinstance(shared.get().to_torch(), nn.RNN)


# --------------------------------------------------------------------------------------------------------------- layers


def test_layers_of_the_tutorials():
    assert layers.Conv2d is nn.Conv2d
    assert layers.AvgPool2d is nn.AvgPool2d


def test_hardsigmoid_is_torch_s():
    x = torch.linspace(-5, 5, 64, dtype=torch.float64)
    one, other = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    mine, theirs = layers.Hardsigmoid()(one), nn.Hardsigmoid()(other)
    mine.sum().backward()
    theirs.sum().backward()
    assert (mine - theirs).abs().max() <= 1e-12
    assert (one.grad - other.grad).abs().max() <= 1e-8, "torch's own 1/6 has float32 digits"
    assert_same(layers.Hardsigmoid()(share(x.float())), theirs.float(), 3 * UNIT)
