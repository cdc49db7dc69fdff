"""What torch's kernels take on trust from autograd, and a stranger must not be trusted with.

Many backward kernels use saved indices and statistics, or the shape of a gradient, without looking at them again:
indices
out of range, or tensors of another size, would let them read or write other memory of the process. Each check here was
put in because a run with memory guarded on both sides of every tensor found such an access, or because the kernel's
text
shows one.

Checks look at shapes, dtypes and public numbers; those of indices look at the smallest and the largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError
from sharetorch.remote import signatures

aten = torch.ops.aten
Check = Callable[..., None]

CHECKS: dict[str, Check] = {}
"""Checks by the name of the operation; called with its arguments."""


def _checks(*names: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        for name in names:
            CHECKS[name] = check
        return check

    return register


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise MalformedRequestError(f"Arguments an operation cannot be given: {what}.")


def _require_shape(x: Tensor | None, shape: Sequence[int], name: str) -> None:
    if x is not None and tuple(x.shape) != tuple(shape):
        raise MalformedRequestError(f"{name} has shape {list(x.shape)} where {list(shape)} is needed.")


class Range(NamedTuple):
    """What is known of the values of a tensor, as long as nothing writes to it.

    Attributes:
        version: torch's count of writes when it was known.
        low: no value is smaller, but for ``besides``.
        high: every value is smaller, but for ``besides``.
        besides: a value that may occur as well.
    """

    version: int
    low: int
    high: int
    besides: int | None


def know_range(index: Tensor, low: int, high: int, besides: int | None = None) -> None:
    """Remember that every value lies in low ... high - 1, or is ``besides``."""
    index._sharetorch_range = Range(index._version, low, high, besides)  # type: ignore[attr-defined]


def _known_range(index: Tensor, low: int, high: int, besides: int | None) -> bool:
    known: Range | None = getattr(index, "_sharetorch_range", None)
    return (
        known is not None
        and known.version == index._version
        and low <= known.low
        and known.high <= high
        and known.besides in (None, besides)
    )


def _require_range(index: Tensor, low: int, high: int, name: str, besides: int | None = None) -> None:
    """Every index lies in low ... high - 1, or is ``besides``; its value is not told."""
    if type(index) not in signatures.PLAIN or not index.numel() or _known_range(index, low, high, besides):
        return
    if besides is not None:
        index = index[index != besides]
        if not index.numel():
            return
    smallest, largest = torch.aminmax(index)
    _require(low <= int(smallest) and int(largest) < high, f"{name} outside of {low} ... {high - 1}")


def _require_contiguous(*tensors: Tensor | None) -> None:
    """For kernels that walk through memory without looking at strides."""
    _require(
        all(x is None or x.is_contiguous() for x in tensors), "tensors that are not contiguous; use x.contiguous()"
    )


def _require_dense(*tensors: Tensor) -> None:
    """Likewise, where channels may come last."""
    for x in tensors:
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        known = x.is_contiguous() or (x.dim() in (4, 5) and x.is_contiguous(memory_format=last))
        _require(known, "tensors that are not contiguous; use x.contiguous()")


def _forward(overload: Any, *args: Any) -> tuple[int, ...]:
    """Shape of the first result of the forward operation."""
    form = signatures.results(overload, *args)[0]
    assert form is not None
    return form.shape


def _classes(args: list[Any], result: Any) -> None:
    know_range(args[1], 0, args[0].shape[1 if args[0].dim() > 1 else 0], args[4] if len(args) > 4 else -100)


Learn = Callable[[list[Any], Any], None]

LEARNS: dict[str, Learn] = {
    "max_pool2d_with_indices": lambda args, result: know_range(result[1], 0, args[0].shape[-2:].numel()),
    "nll_loss_forward": _classes,
}
"""What is known of indices after an operation that made or checked them itself: no need to look again in backward."""


# ------------------------------------------------------------------------------------------------------------- pooling


@_checks("_adaptive_avg_pool2d_backward")
def _adaptive_average2(grad: Tensor, self: Tensor) -> None:
    _averaged(grad, self, 2)


@_checks("_adaptive_avg_pool3d_backward")
def _adaptive_average3(grad: Tensor, self: Tensor) -> None:
    _averaged(grad, self, 3)


def _averaged(grad: Tensor, self: Tensor, places: int) -> None:
    _require(
        self.dim() in (places + 1, places + 2) and grad.dim() == self.dim(),
        "a number of dimensions that is not pooled",
    )
    _require(0 not in [*self.shape[1:], *grad.shape[1:]], "an input without places")
    _require_shape(grad, [*self.shape[:-places], *grad.shape[-places:]], "The gradient")
    _require(grad.dtype == self.dtype, "a gradient of another dtype than the input")


@_checks("adaptive_max_pool2d_backward")
def _adaptive_largest2(grad: Tensor, self: Tensor, indices: Tensor) -> None:
    _pooled(grad, self, indices, 2)


@_checks("adaptive_max_pool3d_backward")
def _adaptive_largest3(grad: Tensor, self: Tensor, indices: Tensor) -> None:
    _pooled(grad, self, indices, 3)


def _pooled(grad: Tensor, self: Tensor, indices: Tensor, places: int) -> None:
    """Each index names a place of its own plane."""
    _require(
        self.dim() in (places + 1, places + 2) and grad.dim() == self.dim(),
        "a number of dimensions that is not pooled",
    )
    _require_shape(indices, grad.shape, "The tensor of indices")
    _require_shape(grad, [*self.shape[:-places], *grad.shape[-places:]], "The gradient")
    _require(indices.dtype == torch.int64 and grad.dtype == self.dtype, "indices or a gradient of another dtype")
    _require_dense(grad, self, indices)
    _require_range(indices, 0, self.shape[-places:].numel(), "indices")


@_checks("max_pool2d_with_indices_backward")
def _largest2(
    grad: Tensor, self: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, indices: Tensor
) -> None:
    _require_shape(
        grad,
        _forward(aten.max_pool2d_with_indices.default, self, kernel, stride, padding, dilation, ceil),
        "The gradient",
    )
    _pooled(grad, self, indices, 2)


@_checks("max_pool3d_with_indices_backward")
def _largest3(
    grad: Tensor, self: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, indices: Tensor
) -> None:
    _require_shape(
        grad,
        _forward(aten.max_pool3d_with_indices.default, self, kernel, stride, padding, dilation, ceil),
        "The gradient",
    )
    _pooled(grad, self, indices, 3)


def _as_forward(forward: Any) -> Check:
    """The gradient has the shape the forward operation gives for the rest of the arguments."""

    def check(grad: Tensor, self: Tensor, *rest: Any) -> None:
        _require_shape(grad, _forward(forward, self, *rest), "The gradient")
        _require(grad.dtype == self.dtype, "a gradient of another dtype than the input")

    return check


for _name in (
    "avg_pool2d", "avg_pool3d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d",
):  # fmt: skip
    CHECKS[f"{_name}_backward"] = _as_forward(getattr(aten, _name).default)


@_checks("fractional_max_pool2d", "fractional_max_pool3d")
def _fractional(self: Tensor, kernel: Sequence[int], output: Sequence[int], samples: Tensor) -> None:
    places = 3 if len(kernel) == 3 else 2
    _require(all(size > 0 for size in [*kernel, *output]), "sizes below 1")
    _require(self.dim() in (places + 1, places + 2), "a number of dimensions that is not pooled")
    planes = [*(self.shape[:1] if self.dim() == places + 2 else [1]), self.shape[-places - 1]]
    _require_shape(samples, [*planes, places], "The tensor of samples")
    _require(samples.dtype == self.dtype, "samples of another dtype than the input")
    if type(samples) in signatures.PLAIN and samples.numel():
        _require(bool(((samples >= 0) & (samples <= 1)).all()), "samples outside of 0 ... 1")


# ------------------------------------------------------------------------------------------------------- normalisation


def _require_channels(input: Tensor, *statistics: Tensor | None) -> None:
    _require(input.dim() >= 2, "an input without channels")
    for x in statistics:
        _require_shape(x, [input.shape[1]], "A statistic or parameter of the channels")


@_checks(
    "native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "_native_batch_norm_legit_no_training"
)
def _batch_norm(input: Tensor, *rest: Any, **named: Any) -> None:
    given = [x for x in [*rest, *named.values()] if isinstance(x, Tensor)]
    _require_channels(input, *given)


@_checks("native_batch_norm_backward")
def _batch_norm_backward(
    grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor | None, var: Tensor | None,
    save_mean: Tensor | None, save_invstd: Tensor | None, train: bool, eps: float, mask: list[bool],
) -> None:  # fmt: skip
    _require_shape(grad, input.shape, "The gradient")
    _require(input.numel() > 0, "an empty input")
    used, unused = ((save_mean, save_invstd), (mean, var)) if train else ((mean, var), (save_mean, save_invstd))
    _require(all(x is not None for x in used), "no statistics")
    _require_channels(input, weight, *used)
    for x in unused:
        _require(x is None or x.numel() == 0 or tuple(x.shape) == (input.shape[1],), "statistics of another size")


@_checks("batch_norm_backward")
def _batch_norm_backward2(
    grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor | None, var: Tensor | None, save_mean: Tensor | None,
    save_var: Tensor | None, update: bool, eps: float, mask: list[bool], reserve: Tensor,
) -> None:  # fmt: skip
    _batch_norm_backward(grad, input, weight, mean, var, save_mean, save_var, update, eps, mask)


@_checks("native_layer_norm_backward")
def _layer_norm_backward(
    grad: Tensor, input: Tensor, normalized: list[int], mean: Tensor, rstd: Tensor, weight: Tensor | None,
    bias: Tensor | None, mask: list[bool],
) -> None:  # fmt: skip
    forms = signatures.results(aten.native_layer_norm.default, input, normalized, weight, bias, 1e-5)
    _require_shape(grad, input.shape, "The gradient")
    for x, form in zip((mean, rstd), forms[1:], strict=True):
        _require(form is not None and x.numel() == form.elements, "statistics of another size")


@_checks("native_group_norm")
def _group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, places: int, group: int, eps: float
) -> None:
    _require(min(n, c, places) >= 0 and group > 0 and c % group == 0, "sizes that do not divide into groups")
    _require(input.numel() == n * c * places, "sizes that are not the input's")
    _require_shape(weight, [c], "The weight")
    _require_shape(bias, [c], "The bias")
    _require_contiguous(weight, bias)


@_checks("native_group_norm_backward")
def _group_norm_backward(
    grad: Tensor, input: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, n: int, c: int, places: int,
    group: int, mask: list[bool],
) -> None:  # fmt: skip
    _group_norm(input, weight, None, n, c, places, group, 0.0)
    _require_shape(grad, input.shape, "The gradient")
    _require_shape(mean, [n, group], "The mean")
    _require_shape(rstd, [n, group], "The deviation")
    _require_contiguous(mean, rstd, grad, input)


@_checks("_weight_norm_interface")
def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> None:
    _require(v.dim() > 0 and dim in (0, v.dim() - 1), "a dimension that is neither first nor last")
    sizes = [1] * v.dim()
    sizes[dim] = v.shape[dim]
    _require_shape(g, sizes, "The norm")
    _require(v.dtype == g.dtype, "a norm of another dtype")
    _require_contiguous(v, g)


@_checks("_weight_norm_interface_backward")
def _weight_norm_backward(grad: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> None:
    _weight_norm(v, g, dim)
    _require_shape(grad, v.shape, "The gradient")
    _require_shape(norms, g.shape, "The saved norm")
    _require_contiguous(grad, norms)


# ---------------------------------------------------------------------------------------------- several tensors at once


@_checks("_foreach_add_", "_foreach_mul_")
def _in_place(selves: list[Tensor], others: Any, **_: Any) -> None:
    """What torch would find wrong with a later tensor must not be found when earlier ones are written already."""
    _require(all(x.is_floating_point() for x in selves), "tensors of integers, to be changed together")
    if isinstance(others, list):
        _require(len(others) == len(selves), "lists of different lengths")
        for x, y in zip(selves, others, strict=True):
            if isinstance(y, Tensor):
                _require_shape(y, x.shape, "An operand")
                _require(y.dtype == x.dtype, "operands of several dtypes")
            else:
                _require(not isinstance(y, complex), "a complex number, to be written into a tensor of real ones")
    else:
        _require(isinstance(others, (int, float)), "an operand that is neither a list nor a real number")


# --------------------------------------------------------------------------------------- losses, softmax and distances


@_checks("addbmm_")
def _addbmm(self: Tensor, batch1: Tensor, batch2: Tensor, **_: Any) -> None:
    """Torch would change the size of ``self``, of which whoever holds a pointer to it would not know."""
    _require_shape(self, _forward(aten.addbmm.default, self, batch1, batch2), "What is written")


@_checks("_log_softmax_backward_data", "_softmax_backward_data")
def _softmax_backward(grad: Tensor, output: Tensor, dim: int, dtype: Any) -> None:
    _require_shape(output, grad.shape, "The saved output")


@_checks("_cdist_backward")
def _cdist_backward(grad: Tensor, x1: Tensor, x2: Tensor, p: float, cdist: Tensor) -> None:
    shape = _forward(aten._cdist_forward.default, x1, x2, 2.0, None)
    _require_shape(grad, shape, "The gradient")
    _require_shape(cdist, shape, "The saved distance")


@_checks("_pdist_backward")
def _pdist_backward(grad: Tensor, self: Tensor, p: float, pdist: Tensor) -> None:
    _require(self.numel() > 0 and pdist.numel() > 0, "an empty input")
    shape = _forward(aten._pdist_forward.default, self, 2.0)
    _require_shape(grad, shape, "The gradient")
    _require_shape(pdist, shape, "The saved distance")


def _require_classes(self: Tensor, target: Tensor, ignored: int | None = None) -> None:
    """A target for each point, naming one of the classes."""
    classes = self.shape[1] if self.dim() > 1 else self.numel()
    _require_range(target, 0, classes, "classes", ignored)


@_checks("nll_loss_backward", "nll_loss2d_backward")
def _nll_backward(
    grad: Tensor, self: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignored: int, total: Tensor
) -> None:
    forward = aten.nll_loss2d_forward.default if self.dim() == 4 else aten.nll_loss_forward.default
    _require(total.numel() == 1, "a total weight that is no number")
    _require_shape(grad, _forward(forward, self, target, weight, reduction, ignored), "The gradient")
    _require_classes(self, target, ignored)


@_checks("multi_margin_loss_backward")
def _multi_margin_backward(
    grad: Tensor, self: Tensor, target: Tensor, p: Any, margin: Any, weight: Tensor | None = None, reduction: int = 1
) -> None:
    points = 1 if self.dim() < 2 else self.shape[0]
    _require(target.numel() == points and target.dtype == torch.int64, "not one target for each point")
    _require(grad.numel() == (points if reduction == 0 else 1), "a gradient of another size than the loss")
    _require_classes(self, target)
    _require_shape(weight, [self.shape[-1] if self.dim() else 1], "The weight")


@_checks("multilabel_margin_loss_backward")
def _multilabel_margin_backward(
    grad: Tensor, self: Tensor, target: Tensor, reduction: int, is_target: Tensor
) -> None:
    points = 1 if self.dim() < 2 else self.shape[0]
    _require_shape(target, self.shape, "The target")
    _require_shape(is_target, self.shape, "The saved mask")
    _require(target.dtype == torch.int64 and is_target.dtype == self.dtype, "a target or mask of another dtype")
    _require(grad.numel() == (points if reduction == 0 else 1), "a gradient of another size than the loss")
    _require_range(target, -1, self.shape[-1] if self.dim() else 1, "classes")


# ---------------------------------------------------------------------------------------------- embeddings and sampling


@_checks("embedding_dense_backward")
def _embedding_backward(grad: Tensor, indices: Tensor, rows: int, padding: int, by_frequency: bool) -> None:
    _require(rows >= 0 and indices.dtype in (torch.int64, torch.int32), "indices of another dtype")
    _require_shape(grad, [*indices.shape, *grad.shape[indices.dim() :]], "The gradient")
    _require_range(indices, 0, rows, "indices")


@_checks("grid_sampler_2d_backward", "grid_sampler_3d_backward")
def _grid_backward(
    grad: Tensor, input: Tensor, grid: Tensor, interpolation: int, padding: int, corners: bool, mask: list[bool]
) -> None:
    forward = aten.grid_sampler_2d.default if input.dim() == 4 else aten.grid_sampler_3d.default
    _require_shape(grad, _forward(forward, input, grid, interpolation, padding, corners), "The gradient")
    _require(grad.dtype == input.dtype, "a gradient of another dtype than the input")


def _require_scales(sizes: Sequence[int], output: Sequence[int], scales: Sequence[Any]) -> None:
    """Factors that lead from the sizes to the output's, or none."""
    for size, wanted, scale in zip(sizes, output, scales, strict=False):
        _require(size > 0 and wanted > 0, "sizes below 1")
        if scale is not None:
            _require(
                scale > 0 and wanted - 1 <= size * scale <= wanted + 2,
                f"a factor from {size} to {wanted} that is none",
            )


def _upsampling(places: int, corners: bool) -> Check:
    def check(self: Tensor, output: Sequence[int] | None, *rest: Any, **named: Any) -> None:
        numbers = [*(rest[1:] if corners else rest), *named.values()]
        if output is None or (numbers and isinstance(numbers[0], list)):
            factors = numbers[0] if numbers and numbers[0] is not None else []
            _require(all(0 < factor < 1 << 31 for factor in factors), "factors that are none")
            return
        _require(len(output) == places and self.dim() == places + 2, "a number of sizes that is not the input's")
        _require_scales(self.shape[2:], output, [x for x in numbers if not isinstance(x, bool)])

    return check


def _upsampling_backward(places: int, corners: bool) -> Check:
    def check(grad: Tensor, output: Sequence[int], input: Sequence[int], *rest: Any) -> None:
        _require(
            len(output) == places and len(input) == places + 2 and min(input) > 0,
            "a number of sizes that is not the input's",
        )
        _require_scales(input[2:], output, rest[1:] if corners else rest)
        _require_shape(grad, [*input[:2], *output], "The gradient")

    return check


for _name, _places, _corners in (
    ("upsample_nearest1d", 1, False), ("upsample_nearest2d", 2, False), ("upsample_nearest3d", 3, False),
    ("_upsample_nearest_exact1d", 1, False), ("_upsample_nearest_exact2d", 2, False), ("upsample_linear1d", 1, True),
    ("upsample_bilinear2d", 2, True), ("upsample_bicubic2d", 2, True), ("upsample_trilinear3d", 3, True),
    ("_upsample_bilinear2d_aa", 2, True),
):  # fmt: skip
    CHECKS[_name] = _upsampling(_places, _corners)
    CHECKS[f"{_name}_backward"] = _upsampling_backward(_places, _corners)


# ---------------------------------------------------------------------------------------- algebra, Fourier, attention


def _require_dimensions(self: Tensor, dims: Sequence[int]) -> None:
    _require(bool(dims) and len(set(dims)) == len(dims), "no dimension, or one twice")
    _require(all(0 <= dim < self.dim() for dim in dims), f"dimensions outside of 0 ... {self.dim() - 1}")


@_checks("_fft_c2c", "_fft_r2c")
def _fft(self: Tensor, dims: list[int], normalization: int, flag: bool) -> None:
    _require_dimensions(self, dims)
    _require(all(self.shape[dim] > 0 for dim in dims), "a dimension of size 0")


@_checks("_fft_c2r")
def _fft_to_real(self: Tensor, dims: list[int], normalization: int, size: int) -> None:
    _fft(self, dims, normalization, True)
    _require(size > 0 and self.shape[dims[-1]] == size // 2 + 1, "a last size that is not the input's")


@_checks("lu_unpack")
def _lu_unpack(LU: Tensor, pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True) -> None:
    _require_pivots(LU, pivots)


@_checks("linalg_lu_solve")
def _lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, **_: Any) -> None:
    _require_pivots(LU, pivots)


def _require_pivots(LU: Tensor, pivots: Tensor) -> None:
    """A row of the matrix for each step, counted from 1."""
    _require(LU.dim() >= 2, "a matrix without rows and columns")
    _require_shape(pivots, [*LU.shape[:-2], min(LU.shape[-2:])], "The tensor of pivots")
    _require(pivots.dtype == torch.int32, "pivots of another dtype than int32")
    _require_range(pivots, 1, LU.shape[-2] + 1, "pivots")


@_checks("convolution_backward")
def _convolution_backward(
    grad: Tensor, input: Tensor, weight: Tensor, bias: list[int] | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, mask: list[bool],
) -> None:  # fmt: skip
    shape = _forward(
        aten.convolution.default, input, weight, None, stride, padding, dilation, transposed, output_padding, groups
    )
    _require_shape(grad, shape, "The gradient")


@_checks("_scaled_dot_product_flash_attention_for_cpu")
def _attention(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, attn_mask: Tensor | None = None, **__: Any
) -> None:
    _require(query.dim() == key.dim() == value.dim() == 4, "operands without batch, heads, places and features")
    _require_shape(value, key.shape, "The value")
    _require_shape(query, [*key.shape[:2], query.shape[2], key.shape[3]], "The query")
    _require(query.dtype == key.dtype == value.dtype, "operands of several dtypes")
    _require(query.numel() > 0 and key.numel() > 0, "empty operands")
    if attn_mask is not None:
        _require(attn_mask.dim() in (2, 4), "a mask that is not of 2 or 4 dimensions")
        _require(attn_mask.dtype == query.dtype, "a mask of another dtype than the query")
        full = [*query.shape[:3], key.shape[2]][-attn_mask.dim() :]
        _require(all(a in (1, b) for a, b in zip(attn_mask.shape, full, strict=True)), "a mask that does not fit")


@_checks("_scaled_dot_product_flash_attention_for_cpu_backward")
def _attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor, *rest: Any,
    attn_mask: Tensor | None = None, **named: Any,
) -> None:  # fmt: skip
    _attention(query, key, value, attn_mask=attn_mask)
    _require_shape(out, query.shape, "The saved result")
    _require_shape(grad, query.shape, "The gradient")
    _require_shape(logsumexp, query.shape[:3], "The saved sum")
    _require(grad.dtype == out.dtype == query.dtype, "operands of several dtypes")


@_checks("random_")
def _random(self: Tensor, *bounds: int | None, **_: Any) -> None:
    """At the ends of the range torch's search for the nearest number it can draw never ends."""
    _require(all(bound is None or abs(bound) < (1 << 63) - 1 for bound in bounds), "bounds beyond 2**63 - 2")


@_checks("view_as_real")
def _view_as_real(self: Tensor) -> None:
    _require(
        not self.is_conj(), "a conjugate that was not written out; use torch.conj_physical(x) instead of x.conj()"
    )


@_checks("view", "view_copy")
def _view(self: Tensor, form: Any) -> None:
    """Bytes other than 0 and 1 are no booleans; kernels count on that."""
    _require(form is not torch.bool or self.dtype is torch.bool, "a view of numbers as booleans; use x != 0")
