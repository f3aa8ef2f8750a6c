"""Launches that choose a setting have fewer steps than the others of their run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.launch.gate import gate, name_of
from benchmarks.launch.progress import Lines
from benchmarks.records.record import Record
from tests.unit.records_factory import record, step

STEPS = [step(5.0), step(4.5), step(4.0), step(3.5)]


def launch(row: str, number: int, count: int, loss: float = 5.0) -> Record:
    steps = [step(loss), *STEPS[1:count]]
    return record(row=row, launch=number, steps=steps)


def statuses(tmp_path: Path, done: list[Record], brief: set[str]) -> dict[str, str]:
    for each in done:
        (tmp_path / f"{each.row.lower()}-{each.launch}").mkdir()
    return {name_of(each): each.status for each in gate(tmp_path, done, Lines(), brief)}


def test_brief_launches_are_compared_with_each_other(tmp_path: Path) -> None:
    done = [launch("A", 1, 2), launch("B", 1, 2), launch("C", 1, 2, loss=5.1)]
    done += [launch("A", 2, 4), launch("B", 2, 4), launch("B", 3, 4)]
    brief = {name_of(each) for each in done if each.launch == 1}
    found = statuses(tmp_path, done, brief)
    assert found.pop("C, launch 1") == "mismatch"
    assert set(found.values()) == {"ok"}


def test_a_full_launch_that_lost_steps_is_a_mismatch(tmp_path: Path) -> None:
    done = [launch("A", 1, 2), launch("A", 2, 4), launch("B", 2, 4), launch("C", 2, 2)]
    found = statuses(tmp_path, done, {"A, launch 1"})
    assert found == {
        "A, launch 1": "ok",
        "A, launch 2": "ok",
        "B, launch 2": "ok",
        "C, launch 2": "mismatch",
    }
