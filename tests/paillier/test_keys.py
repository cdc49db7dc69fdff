"""Making, checking, keeping and printing keys."""

import copy
import pickle
import pprint

import gmpy2
import pytest
import torch

from sharetorch.mpc.errors import RevealError
from sharetorch.mpc.paillier import KeyPair, KeySizeError, PrivateKey, PublicKey, encrypt, keygen


def test_a_key_of_full_length_encrypts_and_decrypts(full_keys: KeyPair) -> None:
    public, private = full_keys
    assert public.n.bit_length() == 2048
    assert gmpy2.is_prime(private.p) and gmpy2.is_prime(private.q)
    x = torch.tensor([1.5, -2.25, 0.0], dtype=torch.float64)
    assert torch.equal(encrypt(x, public).decrypt(private_key=private), x)
    assert torch.equal(encrypt(x, private).decrypt(private_key=private), x)


@pytest.mark.parametrize("length", [16, 64, 130, 512])
def test_n_has_exactly_the_length_asked_for(length: int) -> None:
    public, private = keygen(n_length=length, insecure_test_key=True)
    assert public.bits == length
    assert private.p * private.q == public.n and private.p != private.q


@pytest.mark.parametrize("length", [1024, 2046, 0, -2048, 2049, 16386, 2048.0, True, "2048"])
def test_lengths_that_are_refused(length: object) -> None:
    with pytest.raises(KeySizeError):
        keygen(length)  # type: ignore[arg-type]


def test_short_keys_need_the_switch(keys: KeyPair) -> None:
    with pytest.raises(KeySizeError, match="2048"):
        PublicKey(keys.public_key.n)
    with pytest.raises(KeySizeError, match="2048"):
        PrivateKey(keys.private_key.p, keys.private_key.q)


@pytest.mark.parametrize(("p", "q"), [(5, 5), (5, 9), (2, 7), (5, 11), (1, 35)])
def test_pairs_that_are_no_key(p: int, q: int) -> None:
    # gcd(55, 4 * 10) = 5: two plaintexts would have the same ciphertexts.
    with pytest.raises(KeySizeError):
        PrivateKey(p, q, insecure_test_key=True)


@pytest.mark.parametrize("n", [0, -35, 36, 37, 35.0, True])
def test_moduli_that_are_no_public_key(n: object) -> None:
    with pytest.raises(KeySizeError):
        PublicKey(n, insecure_test_key=True)  # type: ignore[arg-type]


def test_two_calls_make_different_keys(keys: KeyPair, other_keys: KeyPair) -> None:
    assert keys.public_key != other_keys.public_key
    assert keys.public_key.fingerprint != other_keys.public_key.fingerprint


def test_serialised_keys_come_back(full_keys: KeyPair) -> None:
    public, private = full_keys
    assert PublicKey.deserialise(public.serialise()) == public
    kept = PrivateKey.deserialise_secret(private.serialise_secret())
    assert (kept.p, kept.q) == (private.p, private.q)


@pytest.mark.parametrize("data", [b"", b"\x00" * 256, b"\xff" * 100, b"\xff" * 4096])
def test_bytes_that_are_no_key(data: bytes) -> None:
    with pytest.raises(KeySizeError):
        PublicKey.deserialise(data)
    with pytest.raises(KeySizeError):
        PrivateKey.deserialise_secret(data)


@pytest.mark.parametrize("text", [repr, str, "{}".format, pprint.pformat, lambda key: repr([key, {"key": key}])])
def test_no_text_of_a_private_key_shows_it(keys: KeyPair, text) -> None:
    private = keys.private_key
    private.halves, private.lift, private.square_lift  # noqa: B018  (computed and kept)
    for secret in (private.p, private.q, private.p - 1):
        for form in (str(secret), hex(secret)[2:]):
            assert form not in text(private) and form not in text(private.halves)
            assert form not in text(keys)


def test_a_private_key_is_neither_pickled_nor_copied(keys: KeyPair) -> None:
    private = keys.private_key
    for attempt in (pickle.dumps, lambda key: pickle.dumps({"key": [key]})):
        with pytest.raises(RevealError, match="serialise_secret"):
            attempt(private)
    assert copy.deepcopy(private) is private and copy.copy(private) is private


def test_keys_do_not_change(keys: KeyPair) -> None:
    with pytest.raises(AttributeError):
        keys.public_key.n = 35  # type: ignore[misc]
    with pytest.raises(AttributeError):
        keys.private_key.p = 5  # type: ignore[misc]
