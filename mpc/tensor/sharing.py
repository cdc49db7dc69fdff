"""``x.share(alice, bob, crypto_provider=cp)``: from a plain tensor to shares at the members of a session."""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import MembersError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import Encoding, encode, encoding_for, fixed
from sharetorch.mpc.protocols.suite import DEFAULT_SUITE, SUITES, Suite
from sharetorch.mpc.ring import Ring, ring_of
from sharetorch.mpc.session import Member, Session, check_members
from sharetorch.mpc.tensor import (  # noqa: F401  (their operations enter the table)
    assembling,
    choosing,
    division,
    logic,
    preparing,
    products,
    updating,
    writing,
)
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.mpc.virtual import VirtualSession


class Sessions:
    """The sessions of this driver, by members, ring and protocol."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], Session] = {}
        self._watchers: list[Callable[[Session], None]] = []

    def get(self, parties: Sequence[Member], provider: Member, ring: Ring, suite: Suite) -> Session:
        """The session of these members, made at the first call."""
        key = (tuple(id(party) for party in parties), id(provider), ring.modulus, suite.name)
        known = self._open.get(key)
        if known is None or known.ended:
            known = self._open[key] = runtime_of(*parties, provider)(parties, provider, ring, suite)
            for watcher in self._watchers:
                watcher(known)
        return known

    def sync(self) -> None:
        """Wait until every command given so far is done, in all sessions, and raise what went wrong.

        Raises:
            SessionEndedError: a member on another machine was lost or failed.
            ShareTorchError: what an operation there raised.
        """
        for session in list(self._open.values()):
            if not session.ended:
                session.sync()

    def close(self) -> None:
        """End all sessions: their members forget what they hold."""
        for session in self._open.values():
            if not session.ended:
                session.close()
        self._open.clear()

    @contextmanager
    def watched(self, watcher: Callable[[Session], None]) -> Iterator[None]:
        """Call ``watcher`` with every session open now, and with those made inside the block."""
        self._open = {key: session for key, session in self._open.items() if not session.ended}
        for session in list(self._open.values()):
            watcher(session)
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)


sessions = Sessions()
"""All sessions of this process."""
atexit.register(sessions.close)


def runtime_of(*members: Member) -> Callable[..., Session]:
    """The kind of session in which these members can take part: what their class names as ``session_type``.

    Raises:
        MembersError: some are in this process and some on other machines.
    """
    runtimes = {getattr(member, "session_type", VirtualSession) for member in members}
    if len(runtimes) > 1:
        kinds = ", ".join(f"{member.id} ({type(member).__name__})" for member in members)
        raise MembersError(
            f"{kinds}: members in this process and members on other machines cannot form one session, for who runs in "
            "the driver's process hides nothing from the driver. Connect to all of them with st.connect."
        )
    return runtimes.pop()

_PROTOCOL_NAMES = {"snn": "securenn", "mpc": DEFAULT_SUITE}
"""Names of the tutorials for protocols."""


class DriverIsProviderWarning(UserWarning):
    """The driver deals the correlated randomness of parties whose openings it might see."""


def suite_of(protocol: str | None) -> Suite:
    """The suite of that name.

    Raises:
        UnsupportedOperationError: there is none, or it does not share.
    """
    name = DEFAULT_SUITE if protocol is None else _PROTOCOL_NAMES.get(protocol, protocol)
    if name not in SUITES or name == "plaintext":
        known = ", ".join(repr(suite) for suite in SUITES if suite != "plaintext")
        raise UnsupportedOperationError(f"protocol={protocol!r} is not available; use one of {known}.")
    return SUITES[name]


def session_for(
    parties: Sequence[Member], provider: Member, field: int | None = None, protocol: str | None = None
) -> Session:
    """The session of these members, ring and protocol; made at the first call.

    Raises:
        MembersError: the members cannot form a session.
        ModulusError: the field is no modulus.
        UnsupportedOperationError: there is no such protocol.
    """
    suite, ring = suite_of(protocol), ring_of(field)
    check_members(parties, provider, suite)
    return sessions.get(parties, provider, ring, suite)


def share(
    x: Tensor,
    *parties: Member,
    crypto_provider: Member,
    field: int | None = None,
    protocol: str | None = None,
    precision: int | None = None,
    truncation: str = "probabilistic",
    requires_grad: bool | None = None,
) -> SharedTensor:
    """Split a plain or fixed-precision tensor into shares, one at each party.

    Args:
        x: reals (encoded in base 2), integers, booleans, or the result of ``fix_precision()``.
        parties: two or more holders.
        crypto_provider: who deals correlated randomness, none of the parties.
        field: number of elements of the ring; 2^64 if not given. Other moduli carry sums and products of integers only.
        protocol: how comparisons are made: ``"tables"`` (default, any number of parties), ``"tables-wan"`` (one round
            less, more material), ``"fss"`` (one round, two parties), ``"securenn"`` or ``"securenn-paper"`` (two
            parties, and a provider that takes part online).
        precision: fraction bits for reals; 16 if not given.
        truncation: ``"probabilistic"`` (default, 1 round), ``"exact"`` (3 rounds) or ``"local"`` (none, may fail).
        requires_grad: as ``x`` if not given.

    Raises:
        MembersError: fewer than two parties, a party twice, the provider among them, or something that is no worker.
        EncodingError: values that cannot be encoded.
        ModulusError: a field that is no modulus.

    Cost: 8 bytes an element to each party.
    """
    _check_workers(parties, crypto_provider)
    if isinstance(x, SharedTensor) and not isinstance(x, FixedPrecisionTensor):
        raise UnsupportedOperationError(
            "This tensor is shared already. To move it to other parties, x.get() and share the result anew."
        )
    session = session_for(parties, crypto_provider, field, protocol)
    encoding, integers = encoded(x, precision, truncation)
    needs_grad = (x.requires_grad and x.is_leaf) if requires_grad is None else requires_grad
    return handle_of(x, Handle(session, session.distribute(integers), encoding), requires_grad=needs_grad)


def handle_of(x: Tensor, handle: Handle, requires_grad: bool = False) -> SharedTensor:
    """The shared tensor that stands for a plain one whose shares are under a handle."""
    encoding = handle.encoding
    dtype = torch.int64 if encoding.integer else x.dtype if x.dtype.is_floating_point else torch.float32
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    shadow = torch.empty(x.shape, dtype=dtype, device="meta")
    made = SharedTensor(handle, shadow, requires_grad=requires_grad and not encoding.integer)
    made.bits = x.dtype == torch.bool
    return made


def encoded(x: Tensor, precision: int | None, truncation: str) -> tuple[Encoding, Tensor]:
    """How a plain or fixed-precision tensor is written in integers, and these.

    Raises:
        EncodingError: values that cannot be encoded.
    """
    if isinstance(x, FixedPrecisionTensor):
        return x.encoding, x.integers
    encoding = encoding_for(x, precision)
    if not encoding.integer:
        encoding = fixed(precision, truncation=truncation)
    return encoding, encode(x, encoding)


def _check_workers(parties: Sequence[Any], provider: Any) -> None:
    for member in (*parties, provider):
        if not (hasattr(member, "id") and hasattr(member, "store")):
            raise MembersError(
                f"{member!r} is no worker. Pass workers: x.share(alice, bob, crypto_provider=cp), made for example by "
                'st.VirtualWorker(id="alice").'
            )


def warn_driver_provides(name: str) -> None:
    """Tell the user that no crypto provider was named, so the driver deals."""
    warnings.warn(
        f"No crypto_provider was named, so the driver ({name}) deals the correlated randomness. Whoever deals must not "
        "see what is opened; name a worker of a third party as crypto_provider.",
        DriverIsProviderWarning,
        stacklevel=4,
    )
