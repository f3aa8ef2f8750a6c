"""Which settings a sweep tries and takes, by scripted launches; its table, CSV and figure."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.commands.studies.sweep import counts_of, limits_of
from benchmarks.job import Status
from benchmarks.records import store
from benchmarks.records.metrics import Spread
from benchmarks.reporting.tables import Summary
from benchmarks.rows import candidates
from benchmarks.rows.candidates import fitting
from benchmarks.rows.known_grids import Grid
from benchmarks.rows.row import ROWS, Configuration, Row, settings_key
from benchmarks.rows.tuning import GridPoint
from benchmarks.studies import publish, sweep, sweep_figure, sweep_report
from benchmarks.studies.sweep import SweepPoint
from sppo.config.sizes import MIB
from tests.unit.records_factory import record, slower

TUNED = next(row for row in ROWS if row.slug == "megatron-tuned")
NONE = Grid(points={}, source="")


def assignment(name: str, degree: int = 1) -> Configuration:
    row = Row(label=f"megatron {name}", system="megatron", choosing="tuned")
    return Configuration(
        row=row, settings={"name": name, "tensor_parallel": degree}, settings_text=name
    )


def grid_of(**points: tuple[float | None, int | None]) -> Grid:
    """name=(seconds, peak in MiB); no seconds is an oom."""
    known_points = {}
    for name, (seconds, peak) in points.items():
        settings = assignment(name).settings
        known_points[settings_key(settings)] = GridPoint(
            settings=settings,
            settings_text=name,
            status="ok" if seconds is not None else "oom",
            step_seconds_median=seconds,
            tracked_peak_bytes=None if peak is None else peak * MIB,
        )
    return Grid(points=known_points, source="tuning/some.json")


GRID = [assignment(name) for name in ("fast", "middle", "lean")]
FREE = grid_of(fast=(1.0, 300), middle=(1.5, 100), lean=(2.0, 50))


def order(here: Grid, free: Grid, limit_mib: int | None, own: bool = True) -> list[str]:
    limit_bytes = None if limit_mib is None else limit_mib * MIB
    ordered = candidates.candidates(GRID, here, free, limit_bytes=limit_bytes, own=own)
    return [configuration.settings["name"] for configuration in ordered.ordered]


def test_a_grid_under_this_very_limit_needs_no_confirmation() -> None:
    here = grid_of(fast=(None, None), middle=(1.5, 100), lean=(1.4, 50))
    ordered = candidates.candidates(GRID, here, FREE, limit_bytes=152 * MIB, own=True)
    chosen = fitting(ordered, 1, never)
    assert [configuration.settings["name"] for configuration in chosen] == ["lean"]
    assert chosen[0].grid == "fastest, from tuning/some.json"


def test_points_that_were_never_measured_are_counted() -> None:
    here = grid_of(fast=(1.0, 50), older=(0.5, 50))
    ordered = candidates.candidates(GRID, here, FREE, limit_bytes=152 * MIB, own=True)
    words = "fastest of 1 of today's 3 points, from tuning/some.json"
    assert [configuration.grid for configuration in ordered.ordered] == [words]


def never(assignment: Configuration) -> Status:
    raise AssertionError(f"{assignment.settings_text} was launched")


def test_else_the_fastest_whose_peak_fits_then_the_next_and_the_leanest_last() -> None:
    assert order(NONE, FREE, 120) == ["middle", "lean"]
    assert order(NONE, FREE, None) == ["fast", "middle", "lean"]
    assert order(NONE, FREE, 10) == ["lean"], "its failure is the row's result"


def test_after_many_tries_the_point_of_the_least_known_peak_is_the_last() -> None:
    """The leanest point stands in the middle of the order by time, not at its end."""
    names = [f"point {number}" for number in range(2 * candidates.TRIES_PER_POINT)]
    points = [assignment(name) for name in names]
    leanest = points[candidates.TRIES_PER_POINT + 1]
    peaks = {point.key: 50 if point is leanest else 100 for point in points}
    tried: list[str] = []

    def only_the_leanest(point: Configuration) -> Status:
        tried.append(point.settings["name"])
        return "ok" if point.key == leanest.key else "oom"

    chosen = fitting(candidates.Candidates(ordered=points, peaks_bytes=peaks), 1, only_the_leanest)
    assert [point.settings["name"] for point in chosen] == [leanest.settings["name"]]
    assert tried == [*names[: candidates.TRIES_PER_POINT], leanest.settings["name"]]


def test_a_point_known_to_fit_is_among_the_candidates_though_its_time_is_not_known() -> None:
    untimed = grid_of(lean=(2.0, 50))
    proven = {assignment("fast").key}
    ordered = candidates.candidates(
        GRID, NONE, untimed, limit_bytes=120 * MIB, own=True, proven=proven
    )
    assert [point.settings["name"] for point in ordered.ordered] == ["lean", "fast"]
    assert ordered.proven == proven


def test_the_next_is_taken_where_the_first_does_not_fit_after_all() -> None:
    ordered = candidates.candidates(GRID, NONE, FREE, limit_bytes=120 * MIB, own=True)
    tried = []

    def attempt(configuration: Configuration) -> Status:
        tried.append(configuration.settings["name"])
        return "ok" if configuration.settings["name"] == "lean" else "oom"

    chosen = fitting(ordered, 1, attempt)
    assert tried == ["middle", "lean"]
    assert [configuration.settings["name"] for configuration in chosen] == ["lean"]
    assert chosen[0].grid == (
        "fastest without a limit whose peak there fits, from tuning/some.json; confirmed by an "
        "enforced launch, after 1 that did not fit"
    )


def test_where_nothing_fits_the_last_one_speaks() -> None:
    ordered = candidates.candidates(GRID, NONE, FREE, limit_bytes=120 * MIB, own=True)
    chosen = fitting(ordered, 1, lambda configuration: "oom")
    assert [configuration.settings["name"] for configuration in chosen] == ["lean"]


def test_other_sequences_a_step_take_winners_then_layouts_in_turn() -> None:
    grid = [
        assignment("fast"),
        assignment("lean"),
        assignment("tp-fast", 2),
        assignment("tp-lean", 2),
    ]
    free = grid_of(lean=(0.9, 50), fast=(1.0, 90))
    ordered = candidates.candidates(grid, NONE, free, limit_bytes=None, own=False)
    assert not ordered.timed
    assert [configuration.settings["name"] for configuration in ordered.ordered] == [
        "lean",
        "tp-fast",
        "fast",
        "tp-lean",
    ]
    assert len(fitting(ordered, 3, never)) == 3, "without a limit there is nothing to confirm"


def test_full_recomputation_with_chunks_is_tried_beside_less_without() -> None:
    """Of VP4 only "full" fits: beside "mlp" of VP1, so a launch tells which is faster."""
    grid = [
        replace(point, settings={**point.settings, "virtual_pipeline": chunks})
        for point, chunks in (
            (assignment("VP4 mlp"), 4),
            (assignment("VP1 mlp"), None),
            (assignment("VP1 mlp+norms"), None),
            (assignment("VP4 full"), 4),
            (assignment("VP1 full"), None),
        )
    ]
    ordered = candidates.candidates(grid, NONE, NONE, limit_bytes=MIB, own=False)

    def attempt(configuration: Configuration) -> Status:
        return "oom" if configuration.settings["name"] == "VP4 mlp" else "ok"

    chosen = fitting(ordered, 3, attempt)
    names = [configuration.settings["name"] for configuration in chosen]
    assert names == ["VP1 mlp", "VP4 full", "VP1 mlp+norms"]


def test_known_peaks_rule_points_out_for_more_sequences_too() -> None:
    assert "fast" not in order(NONE, FREE, 120, own=False)


def test_tries_for_fitting_are_few_and_end_with_the_leanest() -> None:
    grid = [assignment(f"{number:02d}") for number in range(20)]
    ordered = candidates.candidates(grid, NONE, NONE, limit_bytes=MIB, own=True)
    tried = []

    def attempt(configuration: Configuration) -> Status:
        tried.append(configuration.settings["name"])
        return "oom"

    assert fitting(ordered, 1, attempt)[0].settings["name"] == "19"
    assert tried == ["00", "01", "02", "03", "19"]


def test_after_the_first_launch_the_fastest_of_each_system_goes_on() -> None:
    rows = [
        replace(assignment(name), row=replace(TUNED, label=f"Megatron tuned {name}"))
        for name in "12"
    ]
    sppo = Configuration(row=ROWS[-1])
    done = [
        slower("Megatron tuned 1", "megatron", 2.0),
        slower("Megatron tuned 2", "megatron", 1.5),
        record(),
    ]
    kept = sweep.fastest_of_each([*rows, sppo], done)
    assert [configuration.row.label for configuration in kept] == ["Megatron tuned 2", "SPPO"]
    both = [*done, record(launch=2), slower("Megatron tuned 2", "megatron", 9.0, launch=2)]
    best = sweep.best(both, TUNED)
    assert (best.row, best.launches) == ("Megatron tuned", 2)
    assert best.grid == "fastest of 2; planned"


def test_a_system_that_never_ran_keeps_its_first_row() -> None:
    kept = sweep.fastest_of_each([assignment("a"), assignment("b")], [])
    assert [configuration.settings["name"] for configuration in kept] == ["a"]


def summary(row: str, system: str, seconds: float | None, speed_up: float | None) -> Summary:
    values: dict[str, Any] = {"settings": "TP2", "grid": "known", "launches": 2}
    if seconds is None:
        return Summary(row=row, system=system, status="oom", reason="full", launches_ok=0, **values)
    return Summary(
        row=row,
        system=system,
        status="ok",
        reason="",
        launches_ok=2,
        step_seconds=Spread(median=seconds, low=0.9 * seconds, high=1.1 * seconds),
        tokens_per_second_per_rank=Spread(median=512 / seconds, low=400, high=900),
        sppo_speed_up=speed_up,
        tracked_peak_bytes=90 * MIB,
        **values,
    )


def points() -> list[SweepPoint]:
    def at(label: str, limit: int | None, *rows: Summary) -> SweepPoint:
        return SweepPoint(
            label=label,
            device_memory_bytes=limit,
            sequences_per_step=1,
            folder=label,
            rows=rows,
        )

    return [
        at("100MiB", 100 * MIB, summary("M", "megatron", None, None), summary("S", "sppo", 1.1, 1)),
        at("none", None, summary("M", "megatron", 0.9, 0.9), summary("S", "sppo", 1.0, 1)),
    ]


def test_the_table_has_a_row_a_value_and_a_failure_is_a_cell() -> None:
    lines = sweep_report.table("device-memory", points()).splitlines()
    first = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert first == [
        "100.0 MiB",
        "oom",
        "TP2",
        "-",
        "1.100 [0.990, 1.210]",
        "TP2",
        "90.0 MiB",
        "only SPPO ran",
    ]
    assert lines[3].strip("| ").startswith("no limit")
    assert lines[3].strip("| ").endswith("0.90x")
    text = sweep_report.document(workloads.find("mini-cpu"), "device-memory", points(), record())
    assert "- 100.0 MiB, M: oom: full" in text
    assert "- no limit, M, settings: known" in text


def test_csv_has_a_line_for_every_value_and_system() -> None:
    rows = list(csv.DictReader(io.StringIO(sweep_report.csv_text(points()))))
    assert [row["status"] for row in rows] == ["oom", "ok", "ok", "ok"]
    assert rows[0]["device_memory_bytes"] == str(100 * MIB)
    assert rows[2]["device_memory_bytes"] == ""
    assert float(rows[3]["step_seconds_median"]) == 1.0


def test_json_says_where_it_comes_from() -> None:
    document = sweep_report.as_json(workloads.find("mini-cpu"), "device-memory", points(), record())
    assert json.loads(json.dumps(document, allow_nan=False))["commit"] == "a" * 40
    assert document["values"][1]["rows"][0]["sppo_speed_up"] == 0.9


@pytest.mark.parametrize("quantity", ["device-memory", "sequences-per-step"])
def test_the_figure_is_a_png(quantity: sweep.Quantity, tmp_path: Path) -> None:
    path = tmp_path / "sweep.png"
    sweep_figure.line_chart(workloads.find("mini-cpu"), quantity, points(), {}, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_values_of_flags() -> None:
    assert limits_of("100MiB, none,100MiB") == [100 * MIB, None]
    assert counts_of("1, 2,2") == [1, 2]
    workload = workloads.find("mini-cpu")
    counted = sweep.values(workload, "sequences-per-step", [None], [1, 2])
    assert [value.sequences_per_step for value in counted.values()] == [1, 2]
    assert counted["1"].device_memory_bytes is None
    limited = sweep.values(workload, "device-memory", [3 * MIB, None], [])
    assert [value.device_memory_bytes for value in limited.values()] == [3 * MIB, None]
    assert list(limited) == ["3MiB", "none"]


def test_everything_of_a_study_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "published_directory", lambda: tmp_path / "published")
    for ending in ("md", "csv", "json", "png"):
        (tmp_path / f"sweep.{ending}").write_text(ending)
    publish.publish(tmp_path, "sweep", "sweeps/name")
    names = sorted(path.name for path in (tmp_path / "published" / "sweeps").iterdir())
    assert names == ["name.csv", "name.json", "name.md", "name.png"]
