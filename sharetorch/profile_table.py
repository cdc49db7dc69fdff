"""A profile as a table: rows of figures, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.session import Session
from sharetorch.profile_totals import FIGURES, Ear, Key, Totals, all_groups


class Row(NamedTuple):
    """A name and the figures of all that goes by it."""

    name: str
    totals: Totals


def session_name(session: Session) -> str:
    """Members and protocol."""
    names = session.names()
    return f"{', '.join(names[rank] for rank in sorted(names) if rank >= 0)} ({session.suite.name})"


def _module(key: Key, depth: int | None) -> str:
    return key.place.name(depth) + (" backward" if key.backward else "")


_NAMES: dict[str, Callable[[Ear, Key, int | None], str]] = {
    "operation": lambda ear, key, depth: key.operation,
    "module": lambda ear, key, depth: _module(key, depth),
    "line": lambda ear, key, depth: key.line,
    "session": lambda ear, key, depth: session_name(ear.session),
}


def rows(ears: list[Ear], by: str, sort_by: str | None, depth: int | None) -> list[Row]:
    """Figures grouped by ``by``; every operation is in exactly one row.

    Args:
        ears: what sessions did.
        by: "operation", "module", "line" or "session".
        sort_by: a figure, highest first, or "name"; None for the order of the first operations, and for operations
            that of their time.
        depth: how many names of a module's path are told apart; all if None.

    Raises:
        ConfigurationError: there is no such grouping or figure.
    """
    if by not in _NAMES:
        raise ConfigurationError(f"by={by!r} is no way to group a profile; use one of {', '.join(map(repr, _NAMES))}.")
    if depth is not None and depth < 1:
        raise ConfigurationError(f"depth={depth} leaves no name of a module; use 1 or more, or None for all.")
    grouped: dict[str, Totals] = {}
    for ear, key, totals in all_groups(ears):
        grouped.setdefault(_NAMES[by](ear, key, depth), Totals()).add(totals)
    return _sorted([Row(name, totals) for name, totals in grouped.items()], by, sort_by)


def _sorted(found: list[Row], by: str, sort_by: str | None) -> list[Row]:
    if sort_by is None and by == "operation":
        sort_by = "seconds"
    if sort_by is None:
        return found
    if sort_by == "name":
        return sorted(found)
    if sort_by not in FIGURES:
        known = ", ".join(map(repr, ("name", *FIGURES)))
        raise ConfigurationError(f"sort_by={sort_by!r} is no figure of a profile; use one of {known}.")
    return sorted(found, key=lambda row: -getattr(row.totals, sort_by))


_COLUMNS: tuple[tuple[str, Callable[[Totals], str]], ...] = (
    ("calls", lambda t: str(t.calls)),
    ("ms", lambda t: _milliseconds(t.seconds)),
    ("online ms", lambda t: _milliseconds(t.online)),
    ("offline ms", lambda t: _milliseconds(t.offline)),
    ("waiting ms", lambda t: _milliseconds(t.waiting)),
    ("rounds", lambda t: str(t.rounds)),
    ("party B", lambda t: str(t.party_bytes)),
    ("helper B", lambda t: str(t.helper_bytes)),
    ("driver B", lambda t: str(t.driver_bytes)),
    ("offline B", lambda t: str(t.dealer_bytes)),
)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def text(by: str, found: Sequence[Row], total: Totals, limit: int | None) -> str:
    """An aligned table with a line of totals and a column for each kind of correlated randomness.

    Rows beyond ``limit`` are counted in the line of totals only.
    """
    shown = [*found[:limit], Row("total", total)]
    kinds = sorted(total.correlations)
    cells = [[by, *(title for title, _ in _COLUMNS), *kinds]]
    cells += [
        [
            row.name,
            *(show(row.totals) for _, show in _COLUMNS),
            *(str(row.totals.correlations.get(kind, 0)) for kind in kinds),
        ]
        for row in shown
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(line, widths) for line in cells]
    rule = "-" * len(lines[0])
    left_out = len(found) - len(shown) + 1
    more = [f"... {left_out} more"] if left_out else []
    return "\n".join([lines[0], rule, *lines[1:-1], *more, rule, lines[-1]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The name to the left, figures to the right."""
    name, *figures = (
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([name, *figures])
