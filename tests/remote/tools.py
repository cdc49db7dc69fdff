"""One call of a torch function here and at a worker, side by side."""

import itertools
import warnings
from typing import Any, NamedTuple

import torch

from sharetorch.mpc.errors import ShareTorchError
from sharetorch.remote.multi import MultiPointerTensor
from sharetorch.remote.pointer import PointerTensor

SAMPLES = 12
"""Samples of one function and dtype that are reached."""

DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64, torch.uint8, torch.bfloat16, torch.float16)


class Case(NamedTuple):
    """One function of torch's own collection, in one form, for one element type."""

    op: Any
    form: str
    dtype: torch.dtype

    def __repr__(self) -> str:
        return f"{self.op.name}{self.op.variant_test_name and '.'}{self.op.variant_test_name} ({self.form}, {self.dtype})"

    @property
    def function(self) -> Any:
        return {"function": self.op.op, "method": self.op.method_variant, "in place": self.op.inplace_variant}[self.form]

    @property
    def differentiable(self) -> bool:
        return self.dtype.is_floating_point and self.op.supports_autograd

    def samples(self) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(itertools.islice(self.op.sample_inputs("cpu", self.dtype, requires_grad=self.differentiable), SAMPLES))


def cases(collection: Any) -> list[Case]:
    """Every function of the collection in every form, for every element type it takes."""
    return [
        Case(op, form, dtype)
        for op in collection
        for dtype in DTYPES
        if op.supports_dtype(dtype, "cpu")
        for form in ("function", "method", "in place")
        if Case(op, form, dtype).function is not None
    ]


def each(value: Any, change: Any) -> Any:
    """The same structure with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        made = [each(part, change) for part in value]
        return type(value)(made) if type(value) in (list, tuple) else tuple(made)
    if isinstance(value, dict):
        return {name: each(part, change) for name, part in value.items()}
    return value


def tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    each(value, lambda x: found.append(x) or x)
    return found


class Outcome(NamedTuple):
    """What a call gave: results and gradients as plain values, or an error."""

    values: Any
    grads: list[Any]
    error: Exception | None


def call(case: Case, sample: Any, place: Any, seed: int) -> Outcome:
    """Run a function on copies of a sample's tensors that ``place`` has put somewhere."""
    leaves: list[torch.Tensor] = []

    def put(x: torch.Tensor) -> torch.Tensor:
        needs_grad = x.requires_grad
        x = place(x.detach().clone()).requires_grad_(needs_grad)
        leaves.append(x)
        return x

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            first, args, kwargs = each((sample.input, list(sample.args), sample.kwargs), put)
            if case.form == "in place":
                first = each(first, lambda x: x.clone())
            result = case.function(first, *args, **kwargs)
            seen = [result, first] if case.form == "in place" else result
            grads = gradients(result, leaves, place) if case.differentiable else []
            return Outcome(each(seen, fetched), [each(grad, fetched) for grad in grads], None)
        except Exception as error:
            return Outcome(None, [], error)


def gradients(result: Any, leaves: list[torch.Tensor], place: Any) -> list[Any]:
    """Gradients of a fixed mixture of all results."""
    outputs = [x for x in tensors(result) if x.requires_grad]
    inputs = [x for x in leaves if x.requires_grad]
    if not outputs or not inputs:
        return []
    mixture = []
    for x in outputs:
        weights = torch.arange(1, x.numel() + 1, dtype=torch.float32).reshape(x.shape).sin().to(x.dtype)
        mixture.append(place(weights))
    return list(torch.autograd.grad(outputs, inputs, mixture, allow_unused=True))


def fetched(x: torch.Tensor) -> torch.Tensor:
    """The value of a tensor, wherever it is."""
    assert not isinstance(x, MultiPointerTensor)
    return x.fetched().detach() if isinstance(x, PointerTensor) else x.detach()


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values agree to the bit; NaN agrees with NaN."""
    if isinstance(ours, torch.Tensor):
        return (
            isinstance(theirs, torch.Tensor)
            and ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and torch.equal(torch.nan_to_num(ours, 1.25) if _real(ours) else ours, torch.nan_to_num(theirs, 1.25) if _real(theirs) else theirs)
            and bool((torch.isnan(ours) == torch.isnan(theirs)).all())
        )
    if isinstance(ours, (list, tuple)):
        return isinstance(theirs, (list, tuple)) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and ours != ours:
        return theirs != theirs
    return bool(ours == theirs)


def _real(x: torch.Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def verdict(here: Outcome, there: Outcome) -> str:
    """ "equal", "refused", "fails in both", or what is wrong."""
    if there.error is not None and isinstance(there.error, ShareTorchError):
        return "refused"
    if here.error is not None and there.error is not None:
        same_kind = isinstance(there.error, type(here.error)) or isinstance(here.error, type(there.error))
        return "fails in both" if same_kind else f"{type(here.error).__name__} here, {type(there.error).__name__} there"
    if there.error is not None:
        return f"works here, fails there with {type(there.error).__name__}: {there.error}"
    if here.error is not None:
        return f"fails here with {type(here.error).__name__}: {here.error}; works there"
    if not same(here.values, there.values):
        return "results differ"
    return "equal" if same(here.grads, there.grads) else "gradients differ"
