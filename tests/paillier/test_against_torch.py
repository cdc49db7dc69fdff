"""Every supported operation gives torch's shapes, dtypes and, on numbers that are sums of powers of two, exactly
torch's results.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sharetorch.mpc.paillier import KeyPair, PaillierTensor, encrypt

X = torch.tensor([[1.5, -2.25, 3.0], [0.0, -1.0, 7.125]], dtype=torch.float64)
W = torch.tensor([[0.5, -1.0, 2.0, 0.0], [3.0, 0.25, -0.75, 0.0], [-4.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
V = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
MASK = torch.tensor([True, False, True])
KERNEL = torch.tensor([[[[1.0, -2.0], [0.5, 0.0]]], [[[0.0, 0.0], [3.0, -1.0]]]], dtype=torch.float64)

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "x + x": lambda x: x + x,
    "x - 1.5": lambda x: x - 1.5,
    "1.5 - x": lambda x: 1.5 - x,
    "x + 1": lambda x: x + 1,
    "tensor + x": lambda x: V + x,
    "tensor - x": lambda x: V - x,
    "broadcast": lambda x: x[:, :1] + x[0],
    "broadcast with public": lambda x: x[0] + torch.ones(2, 1, dtype=torch.float64),
    "2 * x": lambda x: 2 * x,
    "x * tensor": lambda x: x * V,
    "tensor * x": lambda x: V.reshape(3, 1, 1) * x,
    "x * mask": lambda x: x * MASK,
    "x * 0-dim": lambda x: x * torch.tensor(0.5),
    "x / 4": lambda x: x / 4,
    "x / 3": lambda x: x / 3,
    "x / tensor": lambda x: x / torch.tensor([2.0, -4.0, 0.5], dtype=torch.float64),
    "-x": lambda x: -x,
    "add with alpha": lambda x: torch.add(x, V, alpha=-0.5),
    "sub with alpha": lambda x: torch.sub(x, x[0], alpha=3),
    "rsub with alpha": lambda x: torch.rsub(x, 2.0, alpha=4),
    "sum": lambda x: x.sum(),
    "sum over rows": lambda x: x.sum(0),
    "sum, keepdim": lambda x: x.sum(-1, keepdim=True),
    "sum over two": lambda x: x.reshape(1, 2, 3).sum((0, 2)),
    "sum of 0-dim": lambda x: x[0, 0].sum(),
    "sum of nothing": lambda x: x[:0].sum(0),
    "python sum": lambda x: sum(x),  # type: ignore[arg-type, return-value]
    "mean": lambda x: x.mean(),
    "mean over columns": lambda x: x.mean(1),
    "x @ W": lambda x: x @ W,
    "W.T @ x.T": lambda x: W.T @ x.T,
    "x @ v": lambda x: x @ V,
    "v @ x.T": lambda x: V @ x.T,
    "mm": lambda x: torch.mm(x, W),
    "mv": lambda x: torch.mv(x, V),
    "matrix mv": lambda x: torch.mv(W.T.contiguous(), x[0]),
    "dot": lambda x: torch.dot(V, x[0]),
    "matmul in 3 dimensions": lambda x: torch.matmul(x.reshape(2, 1, 3), W),
    "bmm": lambda x: torch.bmm(x.reshape(2, 1, 3), torch.stack([W, -W])),
    "empty product": lambda x: x[:, :0] @ W[:0],
    "no columns": lambda x: x @ W[:, :0],
    "addmm": lambda x: torch.addmm(W[0], x, W, beta=2, alpha=-1),
    "encrypted bias": lambda x: torch.addmm(x[:, :1], X, W),
    "addmv": lambda x: torch.addmv(X[:, 0], x, V),
    "baddbmm": lambda x: torch.baddbmm(torch.ones(1, 1, 4).double(), x.reshape(2, 1, 3), torch.stack([W, W])),
    "linear": lambda x: functional.linear(x, W.T, W[0]),
    "linear without bias": lambda x: functional.linear(x, W.T),
    "einsum": lambda x: torch.einsum("ij,jk->ki", x, W),
    "outer": lambda x: torch.outer(x[0], V),
    "tensordot": lambda x: torch.tensordot(x, W, 1),
    "conv2d": lambda x: functional.conv2d(x.reshape(1, 1, 2, 3), KERNEL, V[:2]),
    "conv2d, padded": lambda x: functional.conv2d(x.reshape(1, 1, 2, 3), KERNEL, padding=1, stride=(1, 2)),
    "conv2d, dilated": lambda x: functional.conv2d(x.reshape(1, 1, 2, 3), KERNEL, dilation=(1, 2)),
    "conv2d, groups": lambda x: functional.conv2d(torch.stack([x, -x])[None], KERNEL, groups=2, padding=(0, 1)),
    "conv2d, one column": lambda x: functional.conv2d(x.reshape(1, 1, 2, 3), KERNEL[..., :1], padding=(1, 0)),
    "conv1d": lambda x: functional.conv1d(x, torch.ones(2, 2, 2).double(), padding=1),
    "unfold": lambda x: functional.unfold(x.reshape(1, 1, 2, 3), (2, 2), padding=1),
    "pad": lambda x: functional.pad(x, (1, 0, 0, 2)),
    "reshape": lambda x: x.reshape(3, 2),
    "view": lambda x: x.view(-1),
    "flatten": lambda x: x.flatten(),
    "t": lambda x: x.t(),
    "mT": lambda x: x.mT,
    "permute": lambda x: x.reshape(1, 2, 3).permute(2, 0, 1),
    "movedim": lambda x: x.movedim(0, 1),
    "squeeze": lambda x: x[None].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "expand": lambda x: x[0].expand(4, 3),
    "broadcast_to": lambda x: x.broadcast_to(2, 2, 3),
    "repeat": lambda x: x.repeat(2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "row": lambda x: x[1],
    "last": lambda x: x[..., -1],
    "slice": lambda x: x[:, ::2],
    "index": lambda x: x[torch.tensor([1, 0, 1])],
    "mask": lambda x: x[:, MASK],
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "gather": lambda x: x.gather(1, torch.tensor([[0], [2]])),
    "cat": lambda x: torch.cat([x, x * 2.5, x / 3], 1),
    "stack": lambda x: torch.stack([x, x + 1], -1),
    "split": lambda x: x.split([1, 2], 1)[1],
    "chunk": lambda x: x.chunk(3, 1)[2],
    "unbind": lambda x: x.unbind(1)[1],
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 0),
    "tril": lambda x: x.tril(),
    "diagonal": lambda x: x.diagonal(),
    "float": lambda x: x.float(),
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
}


@pytest.mark.parametrize("name", CASES)
def test_real_numbers(name: str, keys: KeyPair) -> None:
    e = encrypt(X, keys.private_key, base=2, limit=1000)
    made, expected = CASES[name](e), CASES[name](X)
    assert isinstance(made, PaillierTensor) and isinstance(made, torch.Tensor)
    assert made.shape == expected.shape and made.dtype == expected.dtype
    assert torch.equal(made.decrypt(private_key=keys.private_key), expected)


WHOLE = ["x + x", "x + 1", "2 * x", "x * mask", "-x", "sum", "sum over rows", "t", "cat", "index", "pad", "x / 4"]


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "cat"])
def test_integers(name: str, keys: KeyPair) -> None:
    x = X.round().long()
    made, expected = CASES[name](encrypt(x, keys.public_key)), CASES[name](x)
    assert made.dtype == expected.dtype
    assert torch.equal(made.decrypt(private_key=keys.private_key), expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: x + w[0, 0],
        lambda x, w: x * w[0, 0].item(),
        lambda x, w: x.to(w.dtype) @ w,
        lambda x, w: torch.cat([x, x]).to(w.dtype) * w[:1, :1],
    ],
)
def test_integers_beside_reals_become_reals(function, keys: KeyPair) -> None:
    x = X.round().long()
    made, expected = function(encrypt(x, keys.public_key), W), function(x, W)
    assert made.dtype.is_floating_point
    assert torch.equal(made.decrypt(private_key=keys.private_key).double(), expected.double())


def test_an_integer_product_with_a_real_matrix_is_never_read_as_integers(keys: KeyPair) -> None:
    made = encrypt(X.round().long(), keys.public_key) @ W
    assert torch.equal(made.decrypt(private_key=keys.private_key), X.round() @ W)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_types(dtype: torch.dtype, keys: KeyPair) -> None:
    e = encrypt(X.to(dtype), keys.public_key)
    assert e.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(e.decrypt(private_key=keys.private_key).double(), X)
    assert (e + torch.ones(3, dtype=dtype)).decrypt(private_key=keys.private_key)[0, 0] == 2.5


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64])
def test_whole_types(dtype: torch.dtype, keys: KeyPair) -> None:
    x = torch.tensor([0, 1, 100]).to(dtype)
    assert encrypt(x, keys.public_key).decrypt(private_key=keys.private_key).tolist() == x.long().tolist()
    made = encrypt(torch.tensor([1, 2, 3]), keys.public_key) - x
    assert made.decrypt(private_key=keys.private_key).tolist() == (torch.tensor([1, 2, 3]) - x.long()).tolist()


def test_the_smallest_integer_is_subtracted_without_wrapping(keys: KeyPair) -> None:
    least = torch.tensor([-(2**63)])
    made = encrypt(torch.tensor([-1]), keys.public_key) - least
    assert made.decrypt(private_key=keys.private_key).tolist() == [2**63 - 1]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1)])
def test_shapes(shape: tuple[int, ...], keys: KeyPair) -> None:
    x = torch.full(shape, 2.5)
    e = encrypt(x, keys.public_key)
    for made in (e, e + e - e, 0.5 * e * 2, PaillierTensor.deserialise(e.serialise(), keys.public_key)):
        assert torch.equal(made.decrypt(private_key=keys.private_key), x)


def test_numbers_in_fixed_precision_keep_their_encoding(keys: KeyPair) -> None:
    e = encrypt(torch.tensor([1.2345, -0.5]).fix_precision(), keys.public_key)  # type: ignore[attr-defined]
    assert (e.content.scale.base, e.content.scale.precision) == (10, 3)
    assert e.decrypt(private_key=keys.private_key).tolist() == pytest.approx([1.234, -0.5])


def test_a_stock_layer_with_public_weights(keys: KeyPair) -> None:
    layer = torch.nn.Linear(3, 4)
    made = layer(encrypt(X.float(), keys.public_key))
    assert isinstance(made, PaillierTensor)
    torch.testing.assert_close(made.decrypt(private_key=keys.private_key), layer(X.float()).detach(), atol=1e-6, rtol=0)
