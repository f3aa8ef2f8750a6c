"""A tuned row whose point does not fit falls back to the next, and the run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.launch import run
from benchmarks.launch.options import Options
from benchmarks.records.record import Record
from benchmarks.rows import candidates, fallback, tuning
from benchmarks.rows.candidates import Candidates
from benchmarks.rows.fallback import Fallback
from benchmarks.rows.row import ROWS, Configuration, Row, settings_key
from benchmarks.studies import sweep
from sppo.config.sizes import MIB
from tests.unit.records_factory import record, slower

WORKLOAD = workloads.find("tiny-cpu").with_device_memory(160 * MIB)
TUNED = next(row for row in ROWS if row.slug == "megatron-tuned")


def point(name: str, row: Row = TUNED) -> Configuration:
    return Configuration(row=row, settings={"name": name}, settings_text=name, grid="known")


def falling(monkeypatch: pytest.MonkeyPatch, *proven: str, points: str = "abcdefgh") -> Fallback:
    found = Candidates(
        ordered=[point(name) for name in points],
        proven=frozenset(settings_key({"name": name}) for name in proven),
        timed=True,
    )
    monkeypatch.setattr(fallback, "grid_assignments", lambda system, workload: [])
    monkeypatch.setattr(candidates, "of_system", lambda *arguments: found)
    return Fallback(workload=WORKLOAD, own_sequences=1)


def test_the_next_points_in_order_then_the_leanest_then_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instead = falling(monkeypatch)
    taken = []
    refused: Configuration | None = point("b")
    while refused is not None:
        refused = instead(refused)
        taken.append(refused and (refused.settings["name"], refused.row.label))
    assert taken == [
        ("c", "Megatron tuned, point 2"),
        ("d", "Megatron tuned, point 3"),
        ("e", "Megatron tuned, point 4"),
        ("f", "Megatron tuned, point 5"),
        ("h", "Megatron tuned, point 6"),
        None,
    ]


def test_a_point_that_fits_a_tighter_limit_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    other = falling(monkeypatch, "f")(point("b"))
    assert other is not None
    assert other.settings["name"] == "f"
    assert other.grid == "known; after 1 that did not fit"


def test_only_tuned_rows_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    instead = falling(monkeypatch)
    assert instead(point("a", ROWS[-1])) is None
    assert instead(replace(point("a"), settings={})) is None
    assert instead(replace(point("a"), tuned=False)) is None


def test_committed_grids_under_tighter_limits_are_proof() -> None:
    assert tuning.fit_under("megatron", WORKLOAD, 100 * MIB) == set()
    fits = tuning.fit_under("megatron", WORKLOAD, 160 * MIB)
    winner = tuning.grid("megatron", WORKLOAD, 136 * MIB)
    ran = {key for key, entry in winner.points.items() if entry.status == "ok"}
    assert fits == ran
    assert ran


def test_what_ran_under_a_tighter_limit_fits_a_looser_one() -> None:
    def at(limit: int | None, status: str = "ok", **settings: Any) -> Record:
        workload = replace(WORKLOAD, device_memory_bytes=limit)
        changes: dict[str, Any] = {"workload": workload, "status": status, "settings": settings}
        return record(**changes)

    done = [
        at(100 * MIB, a=1),
        at(120 * MIB, a=2),
        at(200 * MIB, a=3),
        at(None, a=4),
        at(100 * MIB, a=5),
        at(120 * MIB, "oom", a=5),
    ]
    fits = sweep.fitting_settings(done, WORKLOAD)
    assert fits == {settings_key({"a": 1}), settings_key({"a": 2})}
    assert sweep.fitting_settings(done, replace(WORKLOAD, sequences_per_step=2)) == set()


def test_a_run_launches_what_takes_a_refused_rows_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    launched: list[tuple[str, int]] = []

    def launch_row(inputs: Any, assignment: Configuration, number: int, *rest: Any) -> Record:
        launched.append((assignment.row.label, number))
        name = assignment.settings.get("name")
        full = name == "a" and number == 2
        return record(
            row=assignment.row.label, launch=number, status="oom" if full else "ok", steps=[]
        )

    monkeypatch.setattr(run, "launch_row", launch_row)
    monkeypatch.setattr(run, "gate", lambda directory, done, display: done)
    monkeypatch.setattr(run, "remove_inputs", lambda inputs: None)
    inputs: Any = type("Inputs", (), {"workload": WORKLOAD, "directory": tmp_path})()
    display: Any = None
    done = run.run(
        inputs,
        [point("a"), point("b", ROWS[-1])],
        Options(launches=3),
        display,
        instead=falling(monkeypatch),
    )
    other = "Megatron tuned, point 2"
    assert launched[1:] == [
        ("Megatron tuned", 1),
        ("SPPO", 1),
        ("SPPO", 2),
        ("Megatron tuned", 2),
        (other, 1),
        (other, 2),
        (other, 3),
        ("SPPO", 3),
    ]
    assert len(done) == len(launched)


def test_a_row_that_ran_comes_before_one_that_was_refused() -> None:
    rows = [
        slower("Megatron tuned", "megatron", 1.0, status="ok"),
        slower("Megatron tuned", "megatron", 1.0, status="oom", launch=2),
        slower("Megatron tuned, point 2", "megatron", 1.2, grid="next; after 1"),
        record(),
    ]
    best = sweep.best(rows, TUNED)
    assert (best.row, best.status, best.grid) == ("Megatron tuned", "ok", "next; after 1")
