"""Ciphertexts and results that leave show nothing. Each check must fail when its leak is planted."""

from collections import Counter
from collections.abc import Callable

import gmpy2
import pytest
import torch

from sharetorch.mpc.paillier import KeyPair, PaillierTensor, PrivateKey, ciphertexts, draws, encrypt, keygen
from sharetorch.mpc.paillier.wire import unpack

PUBLIC, PRIVATE = keygen(256, insecure_test_key=True)
COUNT = 8

Plant = Callable[[pytest.MonkeyPatch], None]


def sent(x: PaillierTensor) -> list[int]:
    """The ciphertexts somebody else receives."""
    return [int(cell) for cell in unpack(x.serialise(), PUBLIC).cells]


def equal_plaintexts_look_different() -> None:
    for key in (PUBLIC, PRIVATE):
        x = torch.full((COUNT,), 7)
        first, second = sent(encrypt(x, key)), sent(encrypt(x, key))
        assert len({*first, *second}) == 2 * COUNT


def nobody_can_read_without_the_key() -> None:
    for cell in sent(encrypt(torch.arange(COUNT), PUBLIC)):
        assert cell % PUBLIC.n != 1, "1 + m n, the plaintext without noise"


def results_tell_nothing_of_public_operands() -> None:
    x = encrypt(torch.ones(COUNT), PUBLIC)
    zero = torch.zeros(COUNT, COUNT)
    for function in (
        lambda: 0 * x,
        lambda: x * zero[0],
        lambda: zero @ x,
        lambda: x - x,
        lambda: torch.nn.functional.pad(x[:0], (0, COUNT)),
        lambda: x + 1,
        lambda: 2 * x,
        lambda: x.flip(0),
        lambda: x[:1].expand(COUNT),
        lambda: torch.stack([x, x])[0],
    ):
        result = function()
        first, second = sent(result), sent(result)
        kept = {int(cell) for cell in (*result.content.cells, *x.content.cells, 1)}
        assert len({*first, *second}) == 2 * COUNT
        assert not kept & {*first, *second}


def received_tensors_are_not_passed_on_as_they_came() -> None:
    data = encrypt(torch.ones(COUNT), PUBLIC).serialise()
    received = PaillierTensor.deserialise(data, PUBLIC)
    assert not set(sent(received)) & {int(cell) for cell in received.content.cells}


def noise_is_uniform() -> None:
    """Chi-square with 23 degrees of freedom over the 24 values for n = 35: above 70 once in a million runs."""
    for key in (tiny := PrivateKey(5, 7, insecure_test_key=True), tiny.public_key):
        counts = Counter(int(value) for value in ciphertexts.noise(key, 2400))
        assert set(counts) <= {pow(root, 35, 1225) for root in range(35) if root % 5 and root % 7}
        assert sum((count - 100) ** 2 / 100 for count in counts.values()) + 100 * (24 - len(counts)) < 70


CHECKS = [
    equal_plaintexts_look_different,
    nobody_can_read_without_the_key,
    results_tell_nothing_of_public_operands,
    received_tensors_are_not_passed_on_as_they_came,
    noise_is_uniform,
]


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_leaks(check: Callable[[], None]) -> None:
    check()


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ciphertexts, "noise", lambda key, count: [gmpy2.mpz(1)] * count)


def one_noise_for_all(patch: pytest.MonkeyPatch) -> None:
    drawn = ciphertexts.noise
    patch.setattr(ciphertexts, "noise", lambda key, count: drawn(key, 1) * count)


def no_refresh(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PaillierTensor, "refresh", lambda self, private_key=None: self)


def small_roots(patch: pytest.MonkeyPatch) -> None:
    drawn = draws.unit
    patch.setattr(draws, "unit", lambda modulus: drawn(max(4, modulus // 2)) if modulus < 100 else drawn(modulus))


@pytest.mark.parametrize(
    ("check", "plant"),
    [
        (equal_plaintexts_look_different, no_noise),
        (equal_plaintexts_look_different, one_noise_for_all),
        (nobody_can_read_without_the_key, no_noise),
        (results_tell_nothing_of_public_operands, no_noise),
        (results_tell_nothing_of_public_operands, one_noise_for_all),
        (results_tell_nothing_of_public_operands, no_refresh),
        (received_tensors_are_not_passed_on_as_they_came, no_refresh),
        (noise_is_uniform, no_noise),
        (noise_is_uniform, one_noise_for_all),
        (noise_is_uniform, small_roots),
    ],
)
def test_the_check_notices_the_leak(check: Callable[[], None], plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def test_refresh_changes_ciphertexts_and_no_plaintext(keys: KeyPair) -> None:
    x = torch.tensor([1.5, -2.0])
    e = encrypt(x, keys.public_key) * 3
    for fresh in (e.refresh(), e.refresh(private_key=keys.private_key)):
        assert not set(fresh.content.cells) & set(e.content.cells)
        assert torch.equal(fresh.decrypt(private_key=keys.private_key), 3 * x)


def test_what_is_written_does_not_depend_on_encrypted_values() -> None:
    small, large = (encrypt(torch.full((2,), value), PUBLIC) for value in (0.0, 1e9))
    width = 2 * 2 * 32
    assert small.serialise()[:-width] == large.serialise()[:-width]


def test_texts_show_no_ciphertext_and_no_number() -> None:
    e = encrypt(torch.tensor([123456.75]), PUBLIC)
    for text in (repr(e), str(e), f"{e}", f"{[e]}"):
        assert "123456" not in text and str(e.content.cells[0]) not in text
