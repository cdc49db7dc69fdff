"""Paillier: whoever has the public key computes on numbers that only the owner of the private key reads."""

import pytest
import torch

import sharetorch as sy

hook = sy.TorchHook(torch)


@pytest.fixture(scope="module")
def keys() -> tuple[object, object]:
    """Long keys take seconds to make; one pair serves all tests here."""
    public, private = sy.keygen()
    return public, private


def test_sums_and_products_with_public_numbers(keys: tuple[object, object]) -> None:
    public, private = keys
    x = torch.tensor([25.0, -5.5, 0.25])
    secret = x.encrypt(protocol="paillier", public_key=public)
    assert isinstance(secret, sy.PaillierTensor)
    assert torch.allclose((secret + secret).decrypt(protocol="paillier", private_key=private), 2 * x)
    assert torch.allclose(
        (secret * torch.tensor([2.0, 3.0, -4.0])).decrypt(private_key=private), x * torch.tensor([2.0, 3, -4])
    )
    assert torch.allclose((secret - 1.5).decrypt(private_key=private), x - 1.5)
    assert "25" not in repr(secret).split(public.fingerprint)[0]


def test_votes_are_added_by_somebody_who_cannot_read_them(keys: tuple[object, object]) -> None:
    public, private = keys
    votes = [torch.tensor(v).encrypt(protocol="paillier", public_key=public) for v in ([1, 0, 0], [0, 0, 1], [1, 0, 0])]
    total = votes[0] + votes[1] + votes[2]
    assert total.decrypt(protocol="paillier", private_key=private).tolist() == [2, 0, 1]


def test_a_linear_model_on_encrypted_inputs(keys: tuple[object, object]) -> None:
    public, private = keys
    x, weight, bias = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 1.0], [0.25, -4.0]]), torch.tensor([1.0, -1.0])
    secret = x.encrypt(protocol="paillier", public_key=public)
    scores = (secret @ weight + bias).decrypt(protocol="paillier", private_key=private)
    assert torch.allclose(scores, x @ weight + bias)


def test_what_it_cannot_do_is_said(keys: tuple[object, object]) -> None:
    public, _ = keys
    secret = torch.tensor([1.0]).encrypt(protocol="paillier", public_key=public)
    with pytest.raises(sy.ShareTorchError, match="share"):
        secret * secret
    with pytest.raises(sy.ShareTorchError):
        secret > 0  # noqa: B015


def test_the_wrong_key_gives_nothing(keys: tuple[object, object]) -> None:
    public, _ = keys
    _, other = sy.keygen()
    secret = torch.tensor([1.0]).encrypt(protocol="paillier", public_key=public)
    with pytest.raises(sy.ShareTorchError):
        secret.decrypt(protocol="paillier", private_key=other)
