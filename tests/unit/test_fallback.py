"""A tuned row whose point does not fit falls back to the next, and the run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines.megatron.te_rules import WITHOUT_TE
from benchmarks import workloads
from benchmarks.launch import run
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.records.record import Record
from benchmarks.rows import candidates, fallback, known_grids
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


def falling(
    monkeypatch: pytest.MonkeyPatch,
    *proven: str,
    points: str = "abcdefgh",
    peaks_bytes: dict[str, int] | None = None,
) -> Fallback:
    peaks = peaks_bytes or {}
    found = Candidates(
        ordered=[point(name) for name in points],
        proven=frozenset(settings_key({"name": name}) for name in proven),
        timed=True,
        peaks_bytes={settings_key({"name": name}): peak for name, peak in peaks.items()},
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


def taken(instead: Fallback, first: str) -> list[str]:
    """The points that take the first one's place, one after the other."""
    names = []
    refused = instead(point(first))
    while refused is not None:
        names.append(refused.settings["name"])
        refused = instead(refused)
    return names


def test_a_point_known_to_fit_is_tried_wherever_it_is_in_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also a faster one; then those whose fit is not known, after the last."""
    assert taken(falling(monkeypatch, "a", "e"), "c") == ["a", "e", "f", "g", "h"]


def test_the_last_try_is_the_point_of_the_least_known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"g": 10, "h": 20}
    assert taken(falling(monkeypatch, peaks_bytes=peaks), "a") == ["b", "c", "d", "e", "g"]


def test_an_untuned_row_falls_back_to_what_is_known_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    untuned = replace(point("h"), tuned=False)
    other = falling(monkeypatch, "c")(untuned)
    assert other is not None
    assert other.settings["name"] == "c"
    assert falling(monkeypatch)(untuned) is None


def test_an_untuned_row_goes_half_of_the_way_to_the_end_of_its_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instead = falling(monkeypatch)
    points = [replace(point(name), grid="remark") for name in "abcdefghij"]
    points[5] = replace(points[5], status="unavailable")
    monkeypatch.setattr(fallback, "grid_assignments", lambda system, workload: points)
    refused = replace(points[0], tuned=False, grid="not tuned; tried; remark")
    taken = []
    while (other := instead(refused)) is not None:
        taken.append(other.settings["name"])
        assert not other.tuned, "without times there is no ratio"
        assert other.settings_text == f"{taken[-1]} (untuned)"
        assert other.grid == f"not tuned; tried; remark; after {len(taken)} that did not fit"
        refused = other
    assert taken == ["e", "h", "i", "j"]


def test_a_row_with_an_emulated_choice_goes_on_untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Towards the end of its grid, which recomputes most: the choice was near the limit."""
    instead = falling(monkeypatch)
    points = [replace(point(name), grid="remark") for name in "abcdefgh"]
    monkeypatch.setattr(fallback, "grid_assignments", lambda system, workload: points)
    refused: Configuration | None = replace(points[2], emulated=True, grid="emulated choice: d")
    names = []
    while refused is not None and (refused := instead(refused)) is not None:
        names.append(refused.settings["name"])
        assert not refused.tuned, "without times there is no ratio"
        assert refused.settings_text == f"{names[-1]} (untuned)"
        assert refused.grid.startswith("not tuned: the emulated choice does not fit; points of")
        assert f"; {WITHOUT_TE}; " in refused.grid, "a row never loses its remark"
        assert refused.grid.endswith(f"; after {len(names)} that did not fit")
    assert names == ["f", "g", "h"]


def test_other_rows_do_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    instead = falling(monkeypatch)
    same_layout = next(row for row in ROWS if row.choosing == "same layout")
    assert instead(point("a", same_layout)) is None
    assert instead(replace(point("a"), settings={})) is None


def test_a_measured_plan_gives_way_to_the_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = replace(point("solver", ROWS[-1]), grid="planned by the solver")
    monkeypatch.setattr(fallback, "planned_by_the_solver", lambda row, workload: solved)
    other = falling(monkeypatch)(point("measured", ROWS[-1]))
    assert other is not None
    assert (other.settings["name"], other.row.label) == ("solver", "SPPO, point 2")
    assert other.grid == "planned by the solver; after 1 that did not fit"
    assert falling(monkeypatch)(other) is None
    refused = replace(solved, status="infeasible")
    monkeypatch.setattr(fallback, "planned_by_the_solver", lambda row, workload: refused)
    assert falling(monkeypatch)(point("measured", ROWS[-1])) is None


def test_committed_grids_under_tighter_limits_are_proof(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    monkeypatch.setattr(known_grids, "own_path_of", lambda workload, limit: own)
    assert known_grids.fit_under("megatron", WORKLOAD, 100 * MIB) == set()
    fits = known_grids.fit_under("megatron", WORKLOAD, 160 * MIB)
    winner = known_grids.grid("megatron", WORKLOAD, 136 * MIB)
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
    monkeypatch.setattr(run, "gate", lambda directory, done, display, brief: done)
    monkeypatch.setattr(run, "remove_inputs", lambda inputs: None)
    inputs: Any = type("Inputs", (), {"workload": WORKLOAD, "directory": tmp_path})()
    done = run.run(
        inputs,
        [point("a"), point("b", ROWS[-1])],
        Options(launches=3),
        Lines(),
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
