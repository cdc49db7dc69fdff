"""Budgets: what is spent, what is refused, and what becomes of the file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sharetorch.fl.privacy import (
    AccountingError,
    Budget,
    BudgetExceededError,
    LedgerDamagedError,
    LedgerError,
    LedgerInUseError,
    LedgerRewoundError,
    Step,
    epsilon,
)
from sharetorch.fl.privacy import ledger as module

STEP = Step(5.0)
DELTA = 1e-5


def opened(path: Path, federation: str = "hospitals", allowed: float = 3.0, **options: Any) -> Budget:
    return Budget(path / "budget", federation, allowed, DELTA, **options)


def test_what_is_spent_is_the_accountants(tmp_path: Path) -> None:
    with opened(tmp_path) as budget:
        assert budget.spent == 0.0
        for count in (1, 2, 3):
            assert budget.spend(STEP, count) == budget.spent == epsilon([STEP] * count, DELTA)
        assert budget.rounds == 3
        assert budget.after(STEP) == epsilon([STEP] * 4, DELTA)


def test_the_step_that_would_exceed_is_refused_and_not_written(tmp_path: Path) -> None:
    with opened(tmp_path) as budget:
        while budget.after(STEP) <= 3.0:
            budget.spend(STEP)
        before, head = (tmp_path / "budget").read_bytes(), budget.head
        with pytest.raises(BudgetExceededError, match=r"has spent epsilon 2\.968 of 3 .* would be 3\.117") as caught:
            budget.spend(STEP)
        assert (caught.value.spent, caught.value.asked, caught.value.allowed) == (budget.spent, budget.after(STEP), 3.0)
        assert (tmp_path / "budget").read_bytes() == before
        assert budget.head == head
        assert budget.spend(Step(100.0)) <= 3.0


def test_an_infinite_cost_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, allowed=1e9) as budget, pytest.raises(BudgetExceededError):
        budget.spend(Step(1e-200))


def test_what_was_spent_is_there_after_closing(tmp_path: Path) -> None:
    with opened(tmp_path) as budget:
        budget.spend(STEP, 1)
        budget.spend(Step(7.0, 0.5, 3, 1e-9), 2)
        spent, head = budget.spent, budget.head
    with opened(tmp_path, known=head) as again:
        assert (again.spent, again.rounds, again.head) == (spent, 2, head)


CRASH = """
import os, sys
from sharetorch.fl.privacy import Budget, Step, ledger

budget = Budget(sys.argv[1], "hospitals", 3.0, 1e-5)
budget.spend(Step(5.0), 1)
if sys.argv[2] == "before the witness":
    ledger.Budget._testify = lambda self: os.kill(os.getpid(), 9)
budget.spend(Step(5.0), 2)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("moment", ["before the use", "before the witness"])
def test_a_crash_after_the_step_was_written_counts_it(tmp_path: Path, moment: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", CRASH, str(tmp_path / "budget"), moment], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with opened(tmp_path) as budget:
        assert budget.spent == epsilon([STEP] * 2, DELTA)
        assert budget.rounds == 2
        budget.spend(STEP, 3)
    with opened(tmp_path) as budget:
        assert budget.rounds == 3


def test_a_line_left_incomplete_was_never_spent(tmp_path: Path) -> None:
    with opened(tmp_path) as budget:
        budget.spend(STEP)
    with (tmp_path / "budget").open("ab") as file:
        file.write(b"0123456789abcdef half a li")
    with opened(tmp_path) as budget:
        assert budget.spent == epsilon([STEP], DELTA)
        budget.spend(STEP)
    with opened(tmp_path) as budget:
        assert budget.spent == epsilon([STEP] * 2, DELTA)


def test_a_failed_write_spends_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as budget:
        budget.spend(STEP)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(LedgerError, match="No space left"):
                budget.spend(STEP)
        assert budget.spent == epsilon([STEP], DELTA)
        budget.spend(STEP)
    with opened(tmp_path) as budget:
        assert budget.spent == epsilon([STEP] * 2, DELTA)


# Somebody else's.


def test_two_runs_do_not_share_a_budget(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(LedgerInUseError, match="open already"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_two_federations_do_not_share_a_budget(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(LedgerInUseError, match="that of 'hospitals', not of 'banks'"):
        opened(tmp_path, "banks")
    opened(tmp_path).close()


@pytest.mark.parametrize("allowed", [2.9, 30.0])
def test_a_budget_does_not_change(tmp_path: Path, allowed: float) -> None:
    opened(tmp_path).close()
    with pytest.raises(LedgerError, match="begun with epsilon 3"):
        opened(tmp_path, allowed=allowed)


# Old copies.


def _spend(path: Path, count: int, **options: Any) -> str:
    with opened(path, **options) as budget:
        for _ in range(count):
            budget.spend(STEP)
        return budget.head


def test_an_old_copy_is_refused(tmp_path: Path) -> None:
    _spend(tmp_path, 1)
    shutil.copy(tmp_path / "budget", tmp_path / "old")
    _spend(tmp_path, 1)
    shutil.copy(tmp_path / "old", tmp_path / "budget")
    with pytest.raises(LedgerRewoundError, match="witness .* has seen 3 lines"):
        opened(tmp_path)


def test_a_removed_ledger_is_noticed(tmp_path: Path) -> None:
    _spend(tmp_path, 1)
    (tmp_path / "budget").unlink()
    with pytest.raises(LedgerRewoundError, match="witness"):
        opened(tmp_path)


def test_a_witness_elsewhere_outlives_the_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    witness = tmp_path / "witness"
    _spend(tmp_path / "disk", 1, witness=witness)
    shutil.copytree(tmp_path / "disk", tmp_path / "backup")
    _spend(tmp_path / "disk", 2, witness=witness)
    with pytest.raises(LedgerRewoundError):
        opened(tmp_path / "backup", witness=witness)


def test_a_ledger_without_its_witness_needs_its_last_hash(tmp_path: Path) -> None:
    head = _spend(tmp_path, 2)
    (tmp_path / "budget.witness").unlink()
    with pytest.raises(LedgerRewoundError, match="known="):
        opened(tmp_path)
    assert _spend(tmp_path, 0, known=head) == head
    opened(tmp_path).close()


def test_both_restored_from_one_backup_are_noticed_by_who_noted_the_last_hash(tmp_path: Path) -> None:
    _spend(tmp_path, 1)
    kept = {name: (tmp_path / name).read_bytes() for name in ("budget", "budget.witness")}
    head = _spend(tmp_path, 1)
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LedgerRewoundError, match="was noted"):
        opened(tmp_path, known=head)


@pytest.mark.parametrize("how", ["cut off", "exchanged", "removed"])
def test_a_file_that_changes_while_it_is_open_is_noticed(tmp_path: Path, how: str) -> None:
    with opened(tmp_path) as budget:
        budget.spend(STEP)
        path = tmp_path / "budget"
        if how == "cut off":
            os.truncate(path, 100)
        else:
            content = path.read_bytes()
            path.unlink()
            if how == "exchanged":
                path.write_bytes(content)
        with pytest.raises(LedgerError):
            budget.spend(STEP)


# Damage.


@pytest.mark.parametrize("place", [0, 70, 150, 250, 330])
def test_every_changed_byte_is_noticed(tmp_path: Path, place: int) -> None:
    _spend(tmp_path, 2)
    content = bytearray((tmp_path / "budget").read_bytes())
    content[place] ^= 1
    (tmp_path / "budget").write_bytes(content)
    with pytest.raises((LedgerDamagedError, LedgerRewoundError)):
        opened(tmp_path)


def test_a_line_taken_out_is_noticed(tmp_path: Path) -> None:
    _spend(tmp_path, 3)
    lines = (tmp_path / "budget").read_bytes().splitlines(keepends=True)
    (tmp_path / "budget").write_bytes(b"".join([lines[0], *lines[2:]]))
    (tmp_path / "budget.witness").unlink()
    with pytest.raises(LedgerDamagedError, match="line 2"):
        opened(tmp_path)


def test_something_else_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "budget").write_text("epsilon = 3\n")
    with pytest.raises(LedgerDamagedError, match="no whole ledger"):
        opened(tmp_path)


def test_another_version_is_no_ledger(tmp_path: Path) -> None:
    body = b'{"something": "else"}'
    line = module._hash(module._FIRST, body).encode() + b" " + body + b"\n"
    (tmp_path / "budget").write_bytes(line)
    with pytest.raises(LedgerDamagedError, match="another version"):
        opened(tmp_path)


def test_a_witness_that_is_none_is_noticed(tmp_path: Path) -> None:
    _spend(tmp_path, 1)
    (tmp_path / "budget.witness").write_text("hello")
    with pytest.raises(LedgerDamagedError, match="witness"):
        opened(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="Correct the path"):
        opened(tmp_path / "nowhere")


def test_a_closed_budget_spends_nothing(tmp_path: Path) -> None:
    budget = opened(tmp_path)
    budget.close()
    budget.close()
    with pytest.raises(LedgerError, match="closed"):
        budget.spend(STEP)


@pytest.mark.parametrize("allowed", [0.0, -1.0, float("inf"), float("nan")])
def test_budgets_that_are_none_are_refused(tmp_path: Path, allowed: float) -> None:
    with pytest.raises(AccountingError, match="positive"):
        opened(tmp_path, allowed=allowed)
    assert not (tmp_path / "budget").exists()
