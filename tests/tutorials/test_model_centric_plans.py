"""The plans of model-centric federated learning: training and averaging as recorded functions.

Hosting them is another subject; here is what is built before, and run by whoever has the data.
"""

from typing import Any

import pytest
import torch
import torch as th
from torch import nn

import sharetorch as sy
from sharetorch.execution.placeholder import PlaceHolder
from sharetorch.execution.plan import Plan, func2plan
from sharetorch.execution.state import State
from sharetorch.execution.translation import TranslationTarget

hook = sy.TorchHook(th)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
BATCH, FEATURES, CLASSES = 6, 5, 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(FEATURES, 8)
        self.fc2 = nn.Linear(8, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.fc2(nn.functional.relu(self.fc1(x)))


def set_model_params(module: Any, params_list: Any, start_param_idx: int = 0) -> int:
    """Put tensors in the place of a module's parameters."""
    param_idx = start_param_idx
    for name, _ in module._parameters.items():
        module._parameters[name] = params_list[param_idx]
        param_idx += 1
    for child in module._modules.values():
        if child is not None:
            param_idx = set_model_params(child, params_list, param_idx)
    return param_idx


def softmax_cross_entropy_with_logits(logits: Any, targets: Any, batch_size: Any) -> Any:
    norm_logits = logits - logits.max()
    log_probs = norm_logits - norm_logits.exp().sum(dim=1, keepdim=True).log()
    return -(targets * log_probs).sum() / batch_size


def naive_sgd(param: Any, **kwargs: Any) -> Any:
    return param - kwargs["lr"] * param.grad


def batch() -> tuple[Any, Any, Any, Any]:
    generator = th.Generator().manual_seed(1)
    X = th.randn(BATCH, FEATURES, generator=generator)
    y = nn.functional.one_hot(th.arange(BATCH) % CLASSES, CLASSES)
    return X, y, th.tensor([float(BATCH)]), th.tensor([0.1])


def training_plan(model: Any) -> Any:
    model_params = [param.data for param in model.parameters()]

    @func2plan()
    def training_step(X: Any, y: Any, batch_size: Any, lr: Any, model_params: Any) -> Any:
        for param in model_params:
            param.requires_grad_()
        set_model_params(model, model_params)
        logits = model(X)
        loss = softmax_cross_entropy_with_logits(logits, y, batch_size)
        loss.backward()
        updated_params = [naive_sgd(param, lr=lr) for param in model_params]
        pred = th.argmax(logits, dim=1)
        target = th.argmax(y, dim=1)
        acc = pred.eq(target).sum().float() / batch_size
        return (loss, acc, *updated_params)

    X, y, batch_size, lr = batch()
    return training_step.build(X, y, batch_size, lr, model_params, trace_autograd=True), model_params


def expected_step(params: list[Any]) -> tuple[Any, list[Any]]:
    """The same step by torch alone."""
    X, y, batch_size, lr = batch()
    leaves = [param.detach().clone().requires_grad_() for param in params]
    hidden = th.relu(X @ leaves[0].T + leaves[1])
    logits = hidden @ leaves[2].T + leaves[3]
    loss = -(y * th.log_softmax(logits, dim=1)).sum() / batch_size
    loss.sum().backward()
    return loss.detach(), [leaf.detach() - lr * leaf.grad for leaf in leaves]


def test_a_training_step_is_recorded_with_its_backward_pass() -> None:
    th.manual_seed(0)
    plan, params = training_plan(Net())
    assert isinstance(plan, Plan) and plan.is_built
    X, y, batch_size, lr = batch()
    losses = []
    for _ in range(30):
        expected_loss, expected_params = expected_step(params)
        loss, acc, *params = plan(X, y, batch_size, lr, params)
        assert th.allclose(loss, expected_loss, atol=1e-5)
        assert all(th.allclose(one, other, atol=1e-5) for one, other in zip(params, expected_params, strict=True))
        losses.append(loss.item())
        assert 0 <= acc.item() <= 1
    assert losses[-1] < 0.7 * losses[0]


def test_parameters_given_as_arguments_need_gradients_without_being_told() -> None:
    @func2plan()
    def step(x: Any, param: Any) -> Any:
        (x * param).sum().backward()
        return param - 0.5 * param.grad

    step.build(th.ones(3), th.zeros(3), trace_autograd=True)
    assert step(th.ones(3), th.ones(3)).tolist() == [0.5] * 3


def test_a_worker_runs_the_training_step() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    th.manual_seed(0)
    plan, params = training_plan(Net())
    X, y, batch_size, lr = batch()
    there = plan.send(bob)
    sent: Any = [value.detach().send(bob) for value in (X, y, batch_size, lr)]
    params_there = [param.detach().send(bob) for param in params]
    loss, acc, *updated = there(*sent, params_there)
    expected_loss, expected_params = expected_step(params)
    assert th.allclose(loss.get(), expected_loss, atol=1e-5) and acc.location is bob
    for one, other in zip(updated, expected_params, strict=True):
        assert th.allclose(one.get(), other, atol=1e-5)


def test_the_code_of_a_plan() -> None:
    plan, params = training_plan(Net())
    assert plan.code.startswith("def training_step(") and "return" in plan.code
    assert "threshold_backward" in plan.code, "the backward pass is part of it"
    X, y, batch_size, lr = batch()
    script = plan.torchscript
    assert isinstance(script, (torch.jit.ScriptModule, torch.jit.ScriptFunction)) and "def " in script.code
    ours, theirs = plan(X, y, batch_size, lr, params), script(X, y, batch_size, lr, params)
    assert all(th.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True))


def test_the_forms_of_a_plan() -> None:
    plan, _ = training_plan(Net())
    assert plan.base_framework == TranslationTarget.PYTORCH.value or plan.base_framework is TranslationTarget.PYTORCH
    with pytest.raises(NotImplementedError, match="tfjs"):
        plan.base_framework = TranslationTarget.TENSORFLOW_JS


def test_the_state_of_a_model_as_placeholders() -> None:
    model = Net()
    state = State(state_placeholders=[PlaceHolder().instantiate(param.data) for param in model.parameters()])
    assert [tuple(place.child.shape) for place in state.state_placeholders] == [(8, 5), (8,), (3, 8), (3,)]
    assert all(th.equal(one, two) for one, two in zip(state.tensors(), model.parameters(), strict=True))


def test_an_averaging_plan_without_its_function() -> None:
    shapes = [(8, 5), (8,), (3, 8), (3,)]

    @func2plan()
    def avg_plan(avg: Any, item: Any, num: Any) -> Any:
        new_avg = []
        for i, param in enumerate(avg):
            new_avg.append((param * num + item[i]) / (num + 1))
        return new_avg

    zeros = [th.zeros(shape) for shape in shapes]
    avg_plan.build(zeros, zeros, th.tensor([1.0]))
    avg_plan.forward = None
    diffs = [[th.randn(shape) for shape in shapes] for _ in range(4)]
    mean = diffs[0]
    for number, diff in enumerate(diffs[1:], 1):
        mean = avg_plan(list(mean), diff, th.tensor([float(number)]))
    for place, shape in enumerate(shapes):
        assert mean[place].shape == shape
        assert th.allclose(mean[place], sum(diff[place] for diff in diffs) / 4, atol=1e-6)
    bob = sy.VirtualWorker(hook, id="bob")
    assert avg_plan.send(bob).get().code == avg_plan.code
