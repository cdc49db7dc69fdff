"""Residues by rejection."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import reduce_words, reference

Shorts = NDArray[np.uint16]


class Source:
    """A stream of words that records how many were asked for."""

    def __init__(self, words: Shorts) -> None:
        """Start before the first of the words."""
        self.words = words
        self.asked: list[int] = []

    def take(self, count: int) -> Shorts:
        """Give the next words."""
        self.asked.append(count)
        taken, self.words = self.words[:count], self.words[count:]
        return taken


def random_words(rng: np.random.Generator, n: int, rejected_share: float) -> Shorts:
    """Words of which a part is likely to be rejected."""
    x = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    return np.where(rng.random(n) < rejected_share, np.uint16(65535), x).astype(np.uint16)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([0, 1, 511, 512, 513, 1025, 600_001]),
    st.integers(1, 256),
    st.sampled_from([0.0, 0.001, 0.3]),
    st.integers(0, 2**32),
)
def test_equals_reference(n: int, modulus: int, rejected_share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words, further = random_words(rng, n, rejected_share), random_words(rng, 2 * n + 1000, rejected_share)
    offset = int(rng.integers(0, 257 - modulus))
    before = words.copy()
    ours, theirs = Source(further), Source(further)
    result = reduce_words(words, modulus, offset, ours.take)
    want = reference.reduce_words(
        torch.from_numpy(words), modulus, offset, lambda count: torch.from_numpy(theirs.take(count).copy())
    )
    assert result.dtype == np.uint8
    assert np.array_equal(result, want.numpy())
    assert ours.asked == theirs.asked
    assert np.array_equal(words, before)


@pytest.mark.parametrize(("modulus", "offset"), [(67, 0), (66, 1), (1, 0), (2, 0), (64, 0), (255, 1), (256, 0)])
def test_every_word_gives_its_remainder_and_all_residues_are_equally_frequent(modulus: int, offset: int) -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    limit = (1 << 16) // modulus * modulus
    source = Source(np.full(modulus, 5, np.uint16))
    result = reduce_words(words, modulus, offset, source.take)
    assert np.array_equal(result[:limit], words[:limit] % modulus + offset)
    assert np.all(result[limit:] == 5 % modulus + offset)
    assert source.asked == ([(1 << 16) - limit] if limit < 1 << 16 else [])


def test_replacements_fill_places_in_order_and_may_be_rejected_themselves() -> None:
    words = np.array([65535, 1, 65530, 2, 65526], np.uint16)  # 65526 = 978 * 67 is the first word rejected
    source = Source(np.array([10, 65535, 12, 11], np.uint16))
    result = reduce_words(words, 67, 0, source.take)
    assert result.tolist() == [10, 1, 11, 2, 12]
    assert source.asked == [3, 1]


def test_bytes_from_a_peer_need_no_alignment() -> None:
    raw = bytes(range(1, 202))
    words = np.frombuffer(raw, np.uint16, count=100, offset=1)
    result = reduce_words(words, 67, 0, Source(np.empty(0, np.uint16)).take)
    assert np.array_equal(result, words % 67)


def test_wrong_arguments_raise() -> None:
    words = np.zeros(4, np.uint16)
    more = Source(words).take
    with pytest.raises(ValueError, match="fit in a byte"):
        reduce_words(words, 256, 1, more)
    with pytest.raises(ValueError, match="fit in a byte"):
        reduce_words(words, 0, 0, more)
    with pytest.raises(ShapeError):
        reduce_words(words[::2], 67, 0, more)
    with pytest.raises(TypeError):
        reduce_words(words.view(np.int16), 67, 0, more)
