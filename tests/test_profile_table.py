"""Tables of profiles: aligned, sorted as asked, with a line of totals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sharetorch as st
from sharetorch.mpc.errors import ConfigurationError
from tests.tensor.tools import ALICE, BOB, PROVIDER, eighths, share


@pytest.fixture(scope="module")
def p() -> st.Profile:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).share(ALICE, BOB, crypto_provider=PROVIDER)
    x = share(eighths(2, 3))
    with st.profile() as found:
        model(x).sum().backward()
    return found


def test_columns_are_aligned(p: st.Profile) -> None:
    lines = p.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    head, rule, *rows, rule_again, total = lines
    assert set(rule) == {"-"} and rule == rule_again
    assert head.split()[:3] == ["operation", "calls", "ms"]
    assert total.split()[:2] == ["total", str(p.totals.calls)]
    assert [row.split()[0] for row in rows] == [row.name for row in p.rows()]


def test_figures_in_the_table_are_those_of_the_rows(p: st.Profile) -> None:
    head, _, *lines = p.table(sort_by="name").splitlines()
    end = head.index("party B") + len("party B")
    for row, line in zip(p.rows(sort_by="name"), lines, strict=False):
        assert int(line[:end].split()[-1]) == row.totals.party_bytes


def test_rows_beyond_the_limit_are_in_the_total(p: st.Profile) -> None:
    lines = p.table(limit=1).splitlines()
    assert lines[3] == f"... {len(p.rows()) - 1} more"
    assert lines[-1] == p.table().splitlines()[-1]
    assert "more" not in p.table(limit=len(p.rows()))


def test_sorting(p: st.Profile) -> None:
    names = [row.name for row in p.rows(sort_by="name")]
    assert names == sorted(names)
    for figure in ("rounds", "dealer_bytes", "online"):
        values = [getattr(row.totals, figure) for row in p.rows("module", sort_by=figure)]
        assert values == sorted(values, reverse=True)
    seconds = [row.totals.seconds for row in p.rows()]
    assert seconds == sorted(seconds, reverse=True), "operations are sorted by time"
    assert p.rows("module")[0].name == "Sequential.0 (Linear)", "modules are in the order of their first operation"


def test_what_is_asked_wrongly_is_named(p: st.Profile) -> None:
    with pytest.raises(ConfigurationError, match="by='layer'.*'module'"):
        p.rows("layer")
    with pytest.raises(ConfigurationError, match="sort_by='cost'.*'rounds'"):
        p.table(sort_by="cost")
    with pytest.raises(ConfigurationError, match="depth=0"):
        p.table("module", depth=0)


def test_the_text_has_modules_where_there_are_some(p: st.Profile) -> None:
    assert p.table("module") in str(p)
    x = share(torch.ones(2))
    with st.profile() as plain:
        x + x
    assert "module" not in str(plain)
    assert str(plain).startswith(plain.table())


def test_an_empty_profile_has_a_table_too() -> None:
    with st.profile() as p:
        pass
    assert p.table().splitlines()[-1].split() == ["total", "0", *["0.00"] * 4, *["0"] * 5]
