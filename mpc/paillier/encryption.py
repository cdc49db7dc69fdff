"""``encrypt``: from a plain tensor to a ``PaillierTensor``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sharetorch.mpc.errors import EncodingError, UnsupportedDtypeError, UnsupportedOperationError, WrongKeyError
from sharetorch.mpc.paillier import arithmetic, ciphertexts, products, structure  # noqa: F401  (they fill the table)
from sharetorch.mpc.paillier.encoding import (
    DEFAULT_LIMIT,
    Scale,
    check_limit,
    encode,
    logical_dtype,
    scale_for,
)
from sharetorch.mpc.paillier.keys import PrivateKey, PublicKey
from sharetorch.mpc.paillier.tensor import Content, PaillierTensor, require_room
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor
from sharetorch.mpc.tensor.shared import SharedTensor


def encrypt(
    x: Tensor,
    public_key: PublicKey | PrivateKey,
    precision_fractional: int | None = None,
    base: int = 10,
    *,
    limit: int = DEFAULT_LIMIT,
) -> PaillierTensor:
    """Encrypt every element under a Paillier key.

    Args:
        x: real numbers, integers, booleans, or the result of ``fix_precision()``, any shape.
        public_key: of whoever may decrypt. The holder of the private key may pass that instead, which is about four
            times faster and gives the same distribution.
        precision_fractional: digits after the point, to which real numbers and the real public operands of later
            products are rounded; 9 decimal digits, or 30 bits, if not given.
        base: 10 or 2.
        limit: public; no element may exceed it in absolute value. 2^63 if not given.

    Returns:
        An encrypted tensor of dtype float32, float64 or int64. It never requires gradients.

    Raises:
        EncodingRangeError: an element exceeds the limit.
        NotFiniteError: NaN or infinity.
        UnsupportedDtypeError: complex or quantised numbers, or something that is no tensor.
        PlaintextRangeError: limit and digits exceed the range of the key.
        WrongKeyError: ``public_key`` is no key.

    Cost: one power modulo n^2 with exponent n for each element: 512 bytes and about 8 ms of one core at 2048 bits.
    """
    _check_operands(x, public_key)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise EncodingError(f"limit={limit!r} is not a whole number, 0 or more.")
    integers, scale, dtype = _encoded(x, scale_for(precision_fractional, base))
    check_limit(integers, limit, scale.unit)
    key = ciphertexts.public_part(public_key)
    require_room(limit * scale.unit, key)
    cells = ciphertexts.encrypted(integers, public_key)
    return PaillierTensor(Content(cells, key, scale, limit * scale.unit, fresh=True), x.shape, dtype)


def _check_operands(x: Any, key: Any) -> None:
    if not isinstance(key, (PublicKey, PrivateKey)):
        raise WrongKeyError(f"public_key= is {type(key).__name__}, not a Paillier key. Make one with keygen().")
    if not isinstance(x, Tensor):
        raise UnsupportedDtypeError(f"encrypt takes a tensor, not {type(x).__name__}. Pass torch.as_tensor(x).")
    if isinstance(x, PaillierTensor):
        raise UnsupportedOperationError("This tensor is encrypted already.")
    if isinstance(x, SharedTensor) and not isinstance(x, FixedPrecisionTensor):
        raise UnsupportedOperationError(
            "This tensor is shared. To encrypt it, x.get() where it may be seen, and encrypt the result."
        )


def _encoded(x: Tensor, scale: Scale) -> tuple[list[int], Scale, Any]:
    if isinstance(x, FixedPrecisionTensor):
        own = Scale(x.encoding.base, x.encoding.precision, x.encoding.unit)
        return x.integers.reshape(-1).tolist(), own, x.dtype
    dtype = logical_dtype(x)
    if dtype.is_floating_point:
        scale = scale.with_unit(scale.nominal)
    return encode(x, scale.unit), scale, dtype
