"""What decryption gives is what the plain computation gives, for any numbers, exactly."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.mpc.paillier import KeyPair, PaillierTensor, PlaintextRangeError, PrivateKey, encrypt, keygen
from sharetorch.mpc.paillier.ciphertexts import Combination, decrypted, encrypted

PUBLIC, PRIVATE = keygen(256, insecure_test_key=True)

WHOLE = st.integers(-(2**40), 2**40)
REAL = st.floats(-1e6, 1e6, allow_nan=False, width=64)
LISTS = st.lists(WHOLE, min_size=1, max_size=4)

few = settings(max_examples=40, deadline=None)


def plain(x: PaillierTensor) -> list[int]:
    return x.decrypt(private_key=PRIVATE).reshape(-1).tolist()


def tensor(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@few
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_integers_come_back(values: list[int]) -> None:
    assert plain(encrypt(tensor(values), PUBLIC)) == values


@few
@given(st.lists(st.tuples(WHOLE, WHOLE, st.integers(-1000, 1000)), min_size=1, max_size=3))
def test_sums_differences_and_products(rows: list[tuple[int, int, int]]) -> None:
    a, b, k = (list(column) for column in zip(*rows, strict=True))
    x, y = encrypt(tensor(a), PUBLIC), encrypt(tensor(b), PUBLIC)
    assert plain(x + y) == [u + v for u, v in zip(a, b, strict=True)]
    assert plain(x - y) == [u - v for u, v in zip(a, b, strict=True)]
    assert plain(x + tensor(b)) == plain(tensor(b) + x) == plain(x + y)
    assert plain(tensor(b) - x) == [v - u for u, v in zip(a, b, strict=True)]
    assert plain(x * tensor(k)) == plain(tensor(k) * x) == [u * f for u, f in zip(a, k, strict=True)]
    assert plain(k[0] * x - x * k[0] + x) == a
    assert plain(-x) == [-u for u in a]
    assert plain(torch.add(x, y, alpha=k[0])) == [u + k[0] * v for u, v in zip(a, b, strict=True)]
    assert plain(torch.sub(x, tensor(b), alpha=k[0])) == [u - k[0] * v for u, v in zip(a, b, strict=True)]
    assert plain(x.sum()) == [sum(a)]


@few
@given(LISTS, st.integers(1, 3), st.data())
def test_combinations_of_rows(row: list[int], columns: int, data: st.DataObject) -> None:
    factors = st.lists(st.integers(-(2**35), 2**35) | st.integers(-3, 3), min_size=len(row), max_size=len(row))
    chosen = [data.draw(factors) for _ in range(columns)]
    made = decrypted(Combination(chosen)(encrypted(row, PRIVATE), PUBLIC), PRIVATE)
    assert made == [sum(a * k for a, k in zip(row, column, strict=True)) for column in chosen]


def nearest(value: float, unit: int) -> Fraction:
    return Fraction((2 * Fraction(value) * unit + 1) // 2, unit)


@few
@given(REAL, REAL, REAL, st.sampled_from([(10, 0), (10, 3), (10, 9), (2, 16), (2, 30)]))
def test_real_numbers_are_exact_after_rounding_the_operands(
    a: float, b: float, w: float, digits: tuple[int, int]
) -> None:
    base, precision = digits
    unit = base**precision
    x, y = (encrypt(torch.tensor([v], dtype=torch.float64), PUBLIC, precision, base) for v in (a, b))
    u, v, k = nearest(a, unit), nearest(b, unit), nearest(w, unit)
    assert plain(x) == [float(u)]
    assert plain(x + y) == [float(u + v)]
    assert plain(x * w) == [float(u * k)]
    assert plain(x * w + b) == [float(u * k + nearest(b, unit * unit))]
    assert plain(x * w - y) == [float(u * k - v)]
    assert plain((x + y) / 3) == [float((u + v) / 3)]
    assert plain(x / -7.0) == [float(-u / 7)]
    assert abs(Fraction(a) - u) <= Fraction(1, 2 * unit)


@few
@given(st.lists(st.sampled_from("+*-sdn2"), max_size=30), st.integers(-9, 9))
def test_a_program_is_exact_or_raises_and_never_wraps(program: list[str], start: int) -> None:
    key = PrivateKey(1000003, 1000033, insecure_test_key=True)
    x = encrypt(tensor([start]), key, limit=9)
    value = Fraction(start)
    moves = {
        "+": (lambda e: e + e, lambda v: 2 * v),
        "*": (lambda e: e * -5, lambda v: -5 * v),
        "-": (lambda e: e - 4, lambda v: v - 4),
        "s": (lambda e: torch.stack([e, e]).sum(0), lambda v: 2 * v),
        "d": (lambda e: torch.cat([e, -e]) @ tensor([3, -1]).reshape(2, 1), lambda v: 4 * v),
        "n": (lambda e: 7 - e, lambda v: 7 - v),
        "2": (lambda e: e.clone() + tensor([1]), lambda v: v + 1),
    }
    for name in program:
        try:
            x = moves[name][0](x)
        except PlaintextRangeError:
            assert x.content.bound * 5 + 9 > key.public_key.capacity
            return
        value = moves[name][1](value)
        assert abs(value) <= x.content.bound <= key.public_key.capacity
        assert x.decrypt(private_key=key).tolist() == [value]


def test_the_range_is_used_to_its_end(keys: KeyPair) -> None:
    key = PrivateKey(5, 7, insecure_test_key=True)  # plaintexts from -17 to 17
    x = encrypt(tensor([8, -8]), key, limit=8)
    assert (2 * x + 1).decrypt(private_key=key).tolist() == [17, -15]
    for overflow in (lambda: 2 * x + 2, lambda: 3 * x, lambda: x + x + x, lambda: x @ tensor([1, 2]), lambda: x + 0.5):
        with pytest.raises(PlaintextRangeError, match="wrap"):
            overflow()
    encrypt(tensor([17]), key, limit=17)
    with pytest.raises(PlaintextRangeError):
        encrypt(tensor([1]), key, limit=18)
    with pytest.raises(PlaintextRangeError):
        encrypt(torch.tensor([1.0]), keys.public_key, precision_fractional=64, limit=1 << 63)


def test_bringing_numbers_to_a_finer_unit_widens_the_bound(keys: KeyPair) -> None:
    x = encrypt(tensor([2**62]), keys.public_key)
    for made, value in ((x + 0.5, 2.0**62), (torch.cat([x.double(), x * 0.5]), 2.0**62)):
        assert made.decrypt(private_key=keys.private_key)[0].item() == value
    full = encrypt(tensor([1]), keys.public_key, limit=keys.public_key.capacity)
    with pytest.raises(PlaintextRangeError):
        full + 0.5


@pytest.mark.parametrize("join", [lambda x, y: torch.cat([x, y]), lambda x, y: x + y, lambda x, y: y + x])
def test_of_two_precisions_the_finer_holds_for_later_operands(join, keys: KeyPair) -> None:
    coarse = encrypt(torch.tensor([2.0], dtype=torch.float64), keys.public_key, 1)
    fine = encrypt(torch.tensor([2.0], dtype=torch.float64), keys.public_key, 6)
    made = join(coarse, fine) * 0.123456
    assert made.decrypt(private_key=keys.private_key)[0].item() in (0.246912, 0.493824)
