"""Matrix products and convolutions of shared tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.protocols.bilinear import (
    Convolution,
    ConvolutionInputGradient,
    ConvolutionKernelGradient,
    Geometry,
    MatrixProduct,
)
from sharetorch.mpc.tensor.arithmetic import gradient_product, layer_product, product
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import on_shadows

_aten = torch.ops.aten
_MATRIX_PRODUCT = MatrixProduct()


@aten(_aten.mm.default, _aten.bmm.default)
def matmul(func: Any, x: Any, y: Any) -> SharedTensor:
    """x @ y for matrices or equally many batched matrices."""
    if x.dim() == y.dim() == 2 and x.shape[1] == y.shape[0] and x.dtype == y.dtype:
        shadow = torch.empty((x.shape[0], y.shape[1]), dtype=x.dtype, device="meta")
    else:
        shadow = on_shadows(func, (x, y), {})
    return product(_MATRIX_PRODUCT, x, y, shadow)


def linear(x: Any, w: Any, b: Any) -> Any:
    """x w + b for matrices x and w."""
    if x.shape[1] != w.shape[0] or x.dtype != w.dtype or (b is not None and b.shape != w.shape[1:]):
        on_shadows(_aten.addmm.default, (torch.empty(w.shape[1]) if b is None else b, x, w), {})
    shadow = torch.empty((x.shape[0], w.shape[1]), dtype=x.dtype, device="meta")
    return layer_product(_MATRIX_PRODUCT, x, w, shadow, b)


def weight_gradient(g: Any, x: Any) -> Any:
    """g @ x for matrices, the gradient of weights: it waits for the optimizer where nothing needs a derivative."""
    if torch.is_grad_enabled():
        return torch.mm(g, x)
    shadow = torch.empty((g.shape[0], x.shape[1]), dtype=g.dtype, device="meta")
    return gradient_product(_MATRIX_PRODUCT, g, x, shadow)


@aten(_aten.mv.default)
def matrix_vector(func: Any, x: Any, y: Any) -> Any:
    """x @ y for a matrix and a vector."""
    return _aten.squeeze(_aten.mm(x, y.unsqueeze(1)), 1)


@aten(_aten.dot.default, _aten.vdot.default)
def dot(func: Any, x: Any, y: Any) -> Any:
    """Inner product of two vectors: one element of dealt material."""
    on_shadows(func, (x, y), {})
    return _aten.view(_aten.mm(x.unsqueeze(0), y.unsqueeze(1)), [])


@aten(_aten.addmm.default, _aten.baddbmm.default, _aten.addmv.default, _aten.addbmm.default)
def add_matmul(func: Any, c: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Beta * c + alpha * (x @ y)."""
    name = func.__name__.split(".")[0]
    result = _MATRIX_PRODUCTS.get(name, _summed_bmm)(x, y)
    result = result if alpha == 1 else result * alpha
    return result + (c if beta == 1 else c * beta)


_MATRIX_PRODUCTS: dict[str, Any] = {"addmm": torch.mm, "baddbmm": torch.bmm, "addmv": torch.mv}


def _summed_bmm(x: Any, y: Any) -> Any:
    return torch.bmm(x, y).sum(0)


def geometry(
    image: Any, kernel: Any, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Geometry:
    """Public parameters of a convolution, one number per spatial dimension.

    Raises:
        UnsupportedOperationError: more than two spatial dimensions.
    """
    dims = len(kernel.shape) - 2
    if dims not in (1, 2):
        raise UnsupportedOperationError(
            f"Convolution over {dims} spatial dimensions has no secure form{user_line()}; 1 and 2 are available."
        )
    stride, padding, dilation = ([*v] * dims if len(v) == 1 else [*v] for v in (stride, padding, dilation))
    return Geometry(tuple(image.shape), tuple(kernel.shape), tuple(stride), tuple(padding), tuple(dilation), groups)


@aten(_aten.convolution.default)
def convolution(
    func: Any,
    x: Any,
    w: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """Convolution in 1 or 2 dimensions: image and kernel are masked, not the gathered patches."""
    if transposed:
        raise UnsupportedOperationError(
            f"Transposed convolution has no secure form{user_line()}; use upsampling by repeat and a convolution."
        )
    shadow = on_shadows(func, (x, w, None, stride, padding, dilation, transposed, output_padding, groups), {})
    bias = None if bias is None else bias.reshape(1, -1, *[1] * (len(shadow.shape) - 2))
    return layer_product(Convolution(geometry(x, w, stride, padding, dilation, groups)), x, w, shadow, bias)


@aten(_aten.convolution_backward.default)
def convolution_backward(
    func: Any,
    grad: Any,
    x: Any,
    w: Any,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Any, Any, Any]:
    """Gradients of a convolution for image, kernel and bias, those asked for."""
    g = geometry(x, w, stride, padding, dilation, groups)
    for_x = for_w = None
    if output_mask[0]:
        for_x = product(ConvolutionInputGradient(g), grad, w, torch.empty(g.image, dtype=grad.dtype, device="meta"))
    if output_mask[1]:
        shadow = torch.empty(g.kernel, dtype=grad.dtype, device="meta")
        for_w = gradient_product(ConvolutionKernelGradient(g), grad, x, shadow)
    return for_x, for_w, grad.sum([0, *range(2, grad.dim())]) if output_mask[2] else None
