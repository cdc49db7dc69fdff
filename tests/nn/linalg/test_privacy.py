"""What the driver and the members see of a fit.

The driver: one bit, and numbers that are determined by the results. Members: uniform words, in the same order and
of the same sizes whatever the data are. Each check fails on a planted leak.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.channel import Message
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import opening, truncation
from sharetorch.mpc.provider import OneTime
from sharetorch.mpc.tensor.sharing import session_for
from sharetorch.nn.linalg import DASH, EncryptedLinearRegression, inv_sym, qr, regression, solving
from sharetorch.nn.linalg.floating import RELEASED_BITS
from tests.mpc import views
from tests.nn.linalg.reference import ALICE, BOB, PROVIDER

Sent = tuple[int, int, str, int]
Array = NDArray[Any]
WORDS = 1000
"""Of each kind at least, for 16 bins."""


class Seen(NamedTuple):
    """A finished model and everything that was sent."""

    model: Any
    transcript: list[Message]


@contextmanager
def recorded() -> Iterator[list[Message]]:
    with session_for((ALICE, BOB), PROVIDER).record() as transcript:
        yield transcript


def data(scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    x = torch.randn(60, 3, dtype=torch.float64) * torch.tensor([1, scale, 1 / scale]) + shift
    return x, x[:, 0] - 2 * torch.randn(60) + shift


def fit(x: Tensor, y: Tensor) -> Seen:
    with recorded() as transcript:
        model = EncryptedLinearRegression(PROVIDER, BOB, parties=(ALICE, BOB)).fit(x.split([10, 50]), y.split([10, 50]))
    return Seen(model, transcript)


def scan(x: Tensor, y: Tensor) -> Seen:
    c = torch.cat([torch.ones(60, 1).double(), x[:, :1]], 1)
    with recorded() as transcript:
        model = DASH(PROVIDER, BOB, parties=(ALICE, BOB)).fit(x[:, 1:].split(30), c.split(30), y.split(30))
    return Seen(model, transcript)


def opened(transcript: list[Message]) -> list[Tensor]:
    """What the driver learns: sums of the parties' shares, in order."""
    shares: list[list[Any]] = [
        [m.fields[0] for m in transcript if (m.sender, m.receiver) == (rank, DRIVER)] for rank in (0, 1)
    ]
    return [first + second for first, second in zip(*shares, strict=True)]


def require_results_only(seen: Seen, count: int, flags: int = 0) -> None:
    """The driver opened a bit, mantissas and exponents that are those of the results, and flags of columns.

    Raises:
        AssertionError: it opened anything else.
    """
    parts = opened(seen.transcript)
    assert [tuple(part.shape) for part in parts] == [(), (2 * count,), (2 * count,), *[(flags,)] * (flags > 0)]
    singular, mantissas, exponents = parts[:3]
    assert int(singular) == 0
    released = torch.ldexp(mantissas.double(), exponents - RELEASED_BITS - 24)
    model = seen.model
    values = [torch.cat([model.coef, model.intercept.reshape(1)])] if hasattr(model, "intercept") else [model.coef]
    assert torch.equal(released[:count].float(), values[0])
    size = mantissas.abs()
    assert bool(((size >= 1 << (RELEASED_BITS - 1)) & (size <= 1 << RELEASED_BITS) | (size == 0)).all())


def words_between(transcript: list[Message], sender: int, receiver: int) -> Array:
    """All 64-bit words that a member got from another, in order."""
    fields = [
        np.asarray(part).reshape(-1)
        for m in transcript
        if (m.sender, m.receiver) == (sender, receiver)
        for part in m.fields
    ]
    return np.concatenate([part for part in fields if part.dtype == np.int64]).view(np.uint64)


def require_blind_members(transcript: list[Message]) -> None:
    """What each party received is uniform, and so is what both parties' messages add up to: the openings.

    Raises:
        AssertionError: it is not.
    """
    to_first, to_second = words_between(transcript, 1, 0), words_between(transcript, 0, 1)
    assert to_first.size == to_second.size > WORDS
    for name, words in (("first", to_first), ("second", to_second), ("openings", to_first + to_second)):
        views.require_uniform((words >> np.uint64(60)).astype(np.int64), 16, f"{name}, high bits")
        views.require_uniform((words & np.uint64(15)).astype(np.int64), 16, f"{name}, low bits")
    dealt = words_between(transcript, 2, 1)
    assert dealt.size > WORDS
    views.require_uniform((dealt >> np.uint64(60)).astype(np.int64), 16, "corrections, high bits")


def sent(transcript: list[Message]) -> list[Sent]:
    return [(m.sender, m.receiver, m.label, m.size) for m in transcript]


def test_a_fit_opens_its_results_only() -> None:
    require_results_only(fit(*data()), 4)


def test_a_scan_opens_its_results_only() -> None:
    require_results_only(scan(*data()), 2, flags=2)


def test_a_singular_design_opens_one_bit() -> None:
    x, y = data()
    x[:, 1] = 3
    with recorded() as transcript, pytest.raises(ArithmeticError):
        EncryptedLinearRegression(PROVIDER, BOB, parties=(ALICE, BOB)).fit([x], [y])
    assert [part.tolist() for part in opened(transcript)] == [1]


def test_inverse_and_qr_open_nothing() -> None:
    x = torch.eye(3).share(ALICE, BOB, crypto_provider=PROVIDER, precision=20)
    with recorded() as transcript:
        inv_sym(x)
        qr(x, mode="complete")
    assert transcript
    assert opened(transcript) == []


def test_members_see_uniform_words() -> None:
    require_blind_members(fit(*data()).transcript)
    require_blind_members(scan(*data()).transcript)


@pytest.mark.parametrize("run", [fit, scan])
def test_what_is_sent_does_not_depend_on_the_data(run: Callable[[Tensor, Tensor], Seen]) -> None:
    sequences = [sent(run(*data(*settings)).transcript) for settings in ((1.0, 0.0), (1e6, 0.0), (1.0, 1e3))]
    assert sequences[0] == sequences[1] == sequences[2]


def test_no_message_holds_what_an_owner_knows() -> None:
    """The second owner of one row: its deviations are zero and its means are its data, in units of 2^13 and less."""
    x, y = data()
    model = EncryptedLinearRegression(PROVIDER, BOB, parties=(ALICE, BOB))
    with recorded() as transcript:
        model.fit([x[:59], x[59:]], [y[:59], y[59:]])
    received = [views.fields_of(transcript, rank) for rank in (0, 1, 2)]
    words = np.concatenate(
        [values for fields in received for values in fields.values() if values.dtype == np.uint64]
    ).view(np.int64)
    assert words.size > 5000
    small = np.abs(words.astype(np.float64)) < 2.0**44
    assert small.mean() < 1e-3, "uniform words are below 2^44 once in 2^19; encoded numbers always"


# ---------------------------------------------------------------------------------------------------- planted leaks


def test_opening_an_intermediate_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = solving.measure

    def curious(x: Any) -> Any:
        length = measure(x)
        length.length.get()
        return length

    monkeypatch.setattr(solving, "measure", curious)
    with pytest.raises(AssertionError):
        require_results_only(fit(*data()), 4)


def test_releasing_numbers_with_their_units_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def frank(mantissas: Any, exponents: Any) -> Tensor:
        return torch.ldexp(mantissas.get(), exponents.get())

    monkeypatch.setattr(regression, "release", frank)
    with pytest.raises(AssertionError):
        require_results_only(fit(*data()), 4)


@pytest.mark.parametrize("module", [opening, truncation])
def test_opening_without_a_mask_is_noticed(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    draw = module.random_shares

    def unmasked(party: Party, label: str, shape: Any) -> OneTime[Tensor]:
        return OneTime(label, torch.zeros_like(draw(party, label, shape).take()))

    monkeypatch.setattr(module, "random_shares", unmasked)
    monkeypatch.setattr("sharetorch.mpc.tensor.sharing.Sessions.get", fixed_shares)
    transcript = fit(*data()).transcript
    with pytest.raises(AssertionError, match="not uniform"):
        require_blind_members(transcript)


def fixed_shares(self: Any, parties: Any, provider: Any, ring: Any, suite: Any) -> Any:
    """A session of its own, so that nothing of the planted leak is left behind."""
    key = "planted", suite.name
    if key not in self._open:
        self._open[key] = testing.VirtualSession(parties, provider, ring, suite)
    return self._open[key]
