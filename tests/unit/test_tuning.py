"""The winner of a measured grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from baselines import registry
from benchmarks import workloads
from benchmarks.cli import main
from benchmarks.commands.measuring.run import points_of
from benchmarks.rows.row import Configuration, find
from benchmarks.rows.tuning import FINALISTS, GridPoint, fastest, finalists, of_records
from tests.unit.records_factory import slower
from tests.unit.scripted_launches import scripted
from tests.unit.timing_cases import BUSY, QUIET


def point(name: str, seconds: float | None, launches: int, peak_bytes: int = 100) -> GridPoint:
    return GridPoint(
        settings={"name": name},
        settings_text=name,
        status="oom" if seconds is None else "ok",
        launches=launches,
        step_seconds_median=seconds,
        tracked_peak_bytes=peak_bytes,
    )


def name_of(points: list[GridPoint], within_bytes: int | None = None) -> str | None:
    found = fastest(points, within_bytes)
    return None if found is None else found.settings_text


def test_one_lucky_launch_does_not_beat_those_launched_again() -> None:
    points = [point("lucky", 2.0, 1), point("first", 2.4, 3), point("second", 2.6, 3)]
    assert name_of(points) == "first"


def test_under_a_limit_only_what_fits_counts() -> None:
    points = [
        point("large", 2.0, 3, 200),
        point("small", 3.0, 1, 90),
        point("other", 2.9, 1, 80),
        point("broken", None, 1),
    ]
    assert name_of(points, 100) == "other"
    assert name_of(points, 50) is None
    assert name_of([point("broken", None, 3)]) is None


def test_a_point_whose_launch_was_disturbed_is_launched_again() -> None:
    (row,) = find(["deepspeed"])
    labels = [f"deepspeed {number:02}" for number in range(1, 8)]
    points = [Configuration(row=replace(row, label=label)) for label in labels]
    records = [
        slower(label, "deepspeed", 1 + number / 100, machine_state=QUIET)
        for number, label in enumerate(labels)
    ]
    records[6] = slower(labels[6], "deepspeed", 1.4, machine_state=BUSY)
    chosen = [point.row.label for point in finalists(points, records)]
    assert chosen == [*labels[:FINALISTS], labels[6]]


def test_a_disturbed_launch_gives_no_time_beside_a_quiet_one() -> None:
    first = slower("deepspeed 07", "deepspeed", 1.4, machine_state=BUSY)
    again = slower("deepspeed 07", "deepspeed", 0.9, machine_state=QUIET, launch=2)
    both, alone = of_records([first, again]).points[0], of_records([first]).points[0]
    assert both.launches == 2
    assert both.step_seconds_median == pytest.approx(0.9 * 0.5)
    assert alone.step_seconds_median == pytest.approx(1.4 * 0.5)


def test_the_grids_of_all_default_systems_are_tuned() -> None:
    points = points_of(find([]), workloads.find("mini-cpu"))
    assert {point.row.system for point in points} == {"deepspeed", "megatron", "native", "sppo"}
    native = [point.key for point in points if point.row.system == "native"]
    assert len(set(native)) == len(registry.load("native").grid(workloads.find("mini-cpu")))


def test_a_run_takes_the_fastest_plan_that_was_tuned_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Launches are scripted: the first row is the fastest, by its label."""
    command = ["run", "mini-cpu", "--systems", "sppo", "--no-wandb", "--output", str(tmp_path)]
    with scripted(tmp_path):
        assert main([*command, "--tune", "--measured-steps", "1"]) == 0
        launched = (tmp_path / "launches.txt").read_text().splitlines()
        tuned = {line.rpartition("/")[2] for line in launched}
        assert {"sppo-01-1", "sppo-02-1", "sppo-01-3"} <= tuned
        capsys.readouterr()
        assert main([*command[:4], "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "plans, from the grid measured on this machine, 20" in shown
    assert (tmp_path / "tuning").is_dir()
    assert (tmp_path / "published" / "tuning").is_dir()
