"""``with st.profile() as p``: time, rounds and bytes of what happens inside the block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sharetorch.mpc.cost import DRIVER, Ledger, Traffic
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.arithmetic import Debug
from sharetorch.mpc.tensor.sharing import sessions


class Profile:
    """Costs of all sessions inside a ``profile()`` block.

    Attributes:
        rounds: online rounds, one operation after the other.
        bytes_sent: online bytes each member has sent, by member id, the driver included.
        provider_bytes: offline bytes providers have sent: corrections of correlated randomness.
        seconds: time spent in operations.
    """

    def __init__(self) -> None:
        self._heard: list[tuple[Session, Ledger]] = []

    @property
    def rounds(self) -> int:
        """Online rounds."""
        return self._total().rounds

    @property
    def seconds(self) -> float:
        """Time spent in operations."""
        return sum(record.seconds for _, ledger in self._heard for record in ledger.by_operation.values())

    @property
    def bytes_sent(self) -> dict[str, int]:
        """Online bytes each member has sent."""
        sent: dict[str, int] = {}
        for session, ledger in self._heard:
            total = ledger.total()
            if not total.operations:
                continue
            for rank, name in session.names().items():
                sent[name] = sent.get(name, 0) + total.sent_by(rank)
        return sent

    @property
    def provider_bytes(self) -> int:
        """Offline bytes providers have sent."""
        return sum(sum(ledger.total().offline.values()) for _, ledger in self._heard)

    def _total(self) -> Traffic:
        total = Traffic()
        for _, ledger in self._heard:
            total.add(ledger.total())
        return total

    def __str__(self) -> str:
        lines = [f"{'operation':<22}{'count':>8}{'rounds':>8}{'online B':>14}{'offline B':>14}{'ms':>10}"]
        for _, ledger in self._heard:
            for name, record in sorted(ledger.by_operation.items(), key=lambda item: -item[1].seconds):
                online, offline = sum(record.traffic.online.values()), sum(record.traffic.offline.values())
                lines.append(
                    f"{name:<22}{record.traffic.operations:>8}{record.traffic.rounds:>8}{online:>14}{offline:>14}"
                    f"{record.seconds * 1e3:>10.1f}"
                )
        return "\n".join(lines)


@contextmanager
def profile() -> Iterator[Profile]:
    """Listen to all sessions, also to those that begin inside the block."""
    heard = Profile()
    with ExitStack() as stack:

        def listen(session: Session) -> None:
            heard._heard.append((session, stack.enter_context(session.costs.listen())))

        with sessions.watched(listen):
            yield heard


@contextmanager
def debug() -> Iterator[None]:
    """Check the range of every product before it is truncated, by opening it: only for data that is not secret.

    A product that has wrapped around into the range again cannot be seen; multiply smaller steps to find it.

    Raises:
        RangeCheckError: from the operation whose result leaves the range in which truncation is exact.
    """
    before = Debug.enabled
    Debug.enabled = True
    try:
        yield
    finally:
        Debug.enabled = before


__all__ = ["DRIVER", "Profile", "debug", "profile"]
