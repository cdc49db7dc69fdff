"""Keys for tests: short ones for speed, one of full length."""

import pytest

from sharetorch.mpc import paillier
from sharetorch.mpc.paillier import KeyPair


@pytest.fixture(scope="session")
def keys() -> KeyPair:
    """256 bits: fast, and as good as open."""
    return paillier.keygen(256, insecure_test_key=True)


@pytest.fixture(scope="session")
def other_keys() -> KeyPair:
    return paillier.keygen(256, insecure_test_key=True)


@pytest.fixture(scope="session")
def full_keys() -> KeyPair:
    return paillier.keygen(2048)
