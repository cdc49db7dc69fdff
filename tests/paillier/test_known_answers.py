"""Numbers worked out by hand for p = 5, q = 7: n = 35, n^2 = 1225.

With r = 2: 2^10 = -201, 2^20 = -24, 2^30 = -76, 2^35 = 18 mod 1225.
With r = 3: 3^10 = 249, 3^20 = 751, 3^30 = 799, 3^35 = 607.
"""

from collections import Counter
from itertools import product

import pytest
import torch

from sharetorch.mpc.paillier import PaillierTensor, PrivateKey, ciphertexts, draws, encrypt

KEY = PrivateKey(5, 7, insecure_test_key=True)
PUBLIC = KEY.public_key


def cells(x: PaillierTensor) -> list[int]:
    return [int(cell) for cell in x.content.cells]


@pytest.mark.parametrize(("message", "root", "ciphertext"), [(3, 2, 683), (-3, 3, 572), (0, 2, 18), (1, 2, 648)])
def test_encryption(message: int, root: int, ciphertext: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # (1 + 3 * 35) * 18 = 683, (1 + 32 * 35) * 607 = 572, 1 * 18 and 36 * 18 = 648, all mod 1225.
    monkeypatch.setattr(draws, "unit", lambda modulus: root)
    e = encrypt(torch.tensor([message]), PUBLIC, limit=4)
    assert cells(e) == [ciphertext]
    assert e.decrypt(private_key=KEY).tolist() == [message]


def test_sums_and_products(monkeypatch: pytest.MonkeyPatch) -> None:
    roots = iter([2, 3])
    monkeypatch.setattr(draws, "unit", lambda modulus: next(roots))
    x, y = encrypt(torch.tensor([3, -3]), PUBLIC, limit=4).unbind()
    assert cells(x + y) == [1126]  # 683 * 572 mod 1225
    assert cells(2 * x) == [989]  # 683^2 mod 1225
    assert cells(x + 1) == [683 * 36 % 1225]
    assert cells(-x) == [pow(683, -1, 1225)]
    assert (x + y).decrypt(private_key=KEY).item() == 0
    assert (2 * x).decrypt(private_key=KEY).item() == 6


def test_every_ciphertext_decrypts_to_its_plaintext() -> None:
    found = Counter()
    for message, root in product(range(-17, 18), [r for r in range(35) if r % 5 and r % 7]):
        cell = (1 + message * 35) * pow(root, 35, 1225) % 1225
        assert ciphertexts.decrypted([ciphertexts.gmpy2.mpz(cell)], KEY) == [message]
        found[cell] += 1
    assert len(found) == 35 * 24 and set(found.values()) == {1}


def test_both_keys_make_the_same_noise_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    by_public = Counter(pow(root, 35, 1225) for root in range(35) if root % 5 and root % 7)
    by_private: Counter[int] = Counter()
    for pair in product(range(1, 5), range(1, 7)):
        drawn = iter(pair)
        monkeypatch.setattr(draws, "unit", lambda modulus, drawn=drawn: next(drawn))
        by_private.update(int(value) for value in ciphertexts.noise(KEY, 1))
    assert by_private == by_public and len(by_public) == 24
