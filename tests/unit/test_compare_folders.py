"""`sppo-bench compare` of two run folders, from records made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.job import Memory
from benchmarks.records import record as records
from benchmarks.records.machine import MachineState
from benchmarks.records.record import Record
from benchmarks.regression.compare.run_folders import RowComparison, join
from tests.unit.records_factory import record, slower

CALM = MachineState(cores=2, wanted_cores=2, kernel_before_seconds=1.0, kernel_after_seconds=1.0)


def launches(factor: float = 1.0, **changes: Any) -> list[Record]:
    """Three calm launches whose measured steps all take `factor` times half a second."""
    made = []
    for number in (1, 2, 3):
        base = slower("SPPO", "sppo", 1.0, launch=number, machine_state=CALM)
        steps = [msgspec.structs.replace(step, seconds=0.5 * factor) for step in base.steps]
        made.append(msgspec.structs.replace(base, steps=steps, **changes))
    return made


def folder(place: Path, done: Sequence[Record]) -> Path:
    for number, each in enumerate(done):
        records.write(each, place / f"launch-{number}" / records.FILE_NAME)
    return place


def joined(tmp_path: Path, base: Sequence[Record], head: Sequence[Record]) -> RowComparison:
    a, b = folder(tmp_path / "a", base), folder(tmp_path / "b", head)
    (row,) = join(a, b, margin=0.03).rows
    return row


@pytest.mark.parametrize(
    ("factor", "outcome"), [(1.0, "not worse"), (1.1, "worse"), (0.9, "better")]
)
def test_step_times(factor: float, outcome: str, tmp_path: Path) -> None:
    row = joined(tmp_path, launches(), launches(factor))
    assert (row.outcome, row.losses, row.memory_ratio) == (outcome, "equal", 1.0)
    assert row.ratio == pytest.approx(factor)


def test_losses_memory_and_status_count(tmp_path: Path) -> None:
    wrong = launches()
    other = [msgspec.structs.replace(step, loss=5.1) for step in wrong[0].steps]
    changed = [msgspec.structs.replace(each, steps=other) for each in wrong]
    row = joined(tmp_path / "losses", launches(), changed)
    assert (row.outcome, row.ratio) == ("worse", None)
    assert "loss 5.1, the first folder has 5" in row.reason
    more = launches(memory=[Memory(tracked_peak_bytes=5 * 1024**2)])
    row = joined(tmp_path / "memory", launches(), more)
    assert (row.outcome, row.reason) == ("worse", "its peak memory is 25.0 % larger")
    row = joined(tmp_path / "status", launches(), launches(status="oom", reason="no memory"))
    assert (row.outcome, row.reason) == ("worse", "it was ok and is oom: no memory")


OOM = {"status": "oom", "reason": "no memory"}


@pytest.mark.parametrize(
    ("base", "head", "outcome", "reason"),
    [
        (OOM, OOM, "not worse", "oom in both folders"),
        (OOM, {}, "better", "it was oom and is ok"),
        (OOM, {"status": "failed"}, "undecided", "it was oom and is failed: no reason given"),
    ],
)
def test_a_status_other_than_ok_in_the_first_folder(
    base: dict[str, str], head: dict[str, str], outcome: str, reason: str, tmp_path: Path
) -> None:
    row = joined(tmp_path, launches(**base), launches(**head))
    assert (row.outcome, row.reason) == (outcome, reason)


def test_a_failed_further_launch_is_set_aside(tmp_path: Path) -> None:
    *fine, third = launches()
    failed = msgspec.structs.replace(third, status="failed", reason="a rank died")
    assert joined(tmp_path, launches(), [*fine, failed]).outcome == "not worse"


def test_a_row_that_the_second_folder_lacks_is_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = launches(row="DeepSpeed", system="deepspeed")
    for each, place in zip(other, ("x", "y", "z"), strict=True):
        records.write(each, tmp_path / "a" / place / records.FILE_NAME)
    a, b = folder(tmp_path / "a", launches()), folder(tmp_path / "b", launches())
    assert main(["compare", str(a), str(b), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["row"], row["outcome"]) for row in rows] == [
        ("SPPO", "not worse"),
        ("DeepSpeed", "worse"),
    ]
    assert rows[1]["reason"].endswith("b lacks this row")
    assert main(["compare", str(b), str(a)]) == 0


def test_times_without_readings_of_the_machine_decide_nothing(tmp_path: Path) -> None:
    unread = launches(1.2, machine_state=None)[:1]
    row = joined(tmp_path, launches(), unread)
    assert (row.outcome, row.ratio) == ("undecided", None)
    assert row.reason == "B has no readings of its machine"


def test_unsettled_times_decide_nothing(tmp_path: Path) -> None:
    row = joined(tmp_path, launches(), launches(1.2)[:1])
    assert row.outcome == "undecided"
    assert row.reason == "B is unsettled: a single launch shows no spread between launches"


def test_seconds_of_two_machines_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = {"cpu_model": "another processor", "cores": 2}
    a = folder(tmp_path / "a", launches())
    b = folder(tmp_path / "b", launches(2.0, environment=elsewhere))
    assert main(["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    assert "seconds are not compared" in shown
    assert main(["compare", str(a), str(b), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["ratio"] for row in data["rows"]] == [None]


def test_different_workloads_are_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(record().workload, name="tiny-cpu", sequence_tokens=4096)
    a = folder(tmp_path / "a", launches())
    b = folder(tmp_path / "b", launches(workload=other))
    c = folder(tmp_path / "c", launches(row="DeepSpeed", system="deepspeed"))
    (tmp_path / "empty").mkdir()
    for head, words in (
        (b, "ran different workloads (mini-cpu and tiny-cpu)"),
        (c, "have no row in common"),
        (tmp_path / "empty", "no */record.json in it"),
    ):
        assert main(["compare", str(a), str(head)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
