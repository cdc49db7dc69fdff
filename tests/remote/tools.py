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

DTYPES = (
    torch.float32,
    torch.float64,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.uint8,
    torch.bfloat16,
    torch.float16,
)


class Case(NamedTuple):
    """One function of torch's own collection, in one form, for one element type."""

    op: Any
    form: str
    dtype: torch.dtype

    def __repr__(self) -> str:
        name = ".".join(part for part in (self.op.name, self.op.variant_test_name) if part)
        return f"{name} ({self.form}, {self.dtype})"

    @property
    def function(self) -> Any:
        return {"function": self.op.op, "method": self.op.method_variant, "in place": self.op.inplace_variant}[
            self.form
        ]

    @property
    def differentiable(self) -> bool:
        return self.dtype.is_floating_point and self.op.supports_autograd

    def samples(self) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(
                itertools.islice(self.op.sample_inputs("cpu", self.dtype, requires_grad=self.differentiable), SAMPLES)
            )


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
        if x.layout is torch.strided:  # as it arrives: a worker gets values, not the order they have in memory here
            x = x.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        x = place(x).requires_grad_(needs_grad)
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


def same(ours: Any, theirs: Any, close: bool = False) -> bool:
    """Whether two values agree, to the bit or to torch's own tolerance for the dtype; NaN agrees with NaN."""
    if isinstance(ours, torch.Tensor):
        if not isinstance(theirs, torch.Tensor) or ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return False
        exact = {} if close else {"rtol": 0, "atol": 0}
        try:
            torch.testing.assert_close(ours, theirs, equal_nan=True, **exact)
        except AssertionError:
            return False
        return True
    if isinstance(ours, (list, tuple)):
        return (
            isinstance(theirs, (list, tuple))
            and len(ours) == len(theirs)
            and all(same(mine, other, close) for mine, other in zip(ours, theirs, strict=True))
        )
    if isinstance(ours, float) and ours != ours:
        return bool(theirs != theirs)
    return bool(ours == theirs)


NO_DATA = "its data is not allocated yet"
"""What torch's C++ says when it looks for the values of a tensor that has none here."""


def verdict(here: Outcome, there: Outcome) -> str:
    """ "equal", "close", "refused", "fails in both", or what is wrong."""
    if isinstance(there.error, ShareTorchError) or NO_DATA in str(there.error):
        return "refused"
    if here.error is not None and there.error is not None:
        same_kind = isinstance(there.error, type(here.error)) or isinstance(here.error, type(there.error))
        return "fails in both" if same_kind else f"{here.error!r} here, {there.error!r} there"
    if there.error is not None:
        return f"works here, fails there with {there.error!r}"
    if here.error is not None:
        return f"fails here with {here.error!r}, works there"
    for close, word in ((False, "equal"), (True, "close")):
        if same([here.values, here.grads], [there.values, there.grads], close):
            return word
    return f"results differ: {here.values} here, {there.values} there; gradients {here.grads}, {there.grads}"
