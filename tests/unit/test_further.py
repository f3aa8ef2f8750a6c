"""Further launches of unsettled rows, within the budget of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import workloads
from benchmarks.launch import run
from benchmarks.launch.further import Budget
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.records.record import Record
from benchmarks.rows.row import Configuration, Row
from tests.unit.records_factory import record
from tests.unit.timing_cases import LABELS, around, launch, run_of

POINTS = [
    Configuration(row=Row(label=LABELS[system], system=system, choosing="tuned"))
    for system in ("megatron", "deepspeed", "sppo")
]
SECONDS_OF_LAUNCH = 10.0


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "gate", lambda directory, done, display: done)
    monkeypatch.setattr(run, "remove_inputs", lambda inputs: None)


def timed(record: Record) -> Record:
    return msgspec.structs.replace(record, launch_seconds=SECONDS_OF_LAUNCH)


def launched(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    medians: dict[str, list[float]],
    options: Options,
) -> list[tuple[str, int]]:
    """Rows and numbers of the launches of a run whose launches have these medians, in turn."""
    order: list[tuple[str, int]] = []

    def launch_row(inputs: Any, point: Configuration, number: int, *rest: Any) -> Record:
        system = point.row.system
        if system == "reference":
            return timed(record(system=system, row="Reference"))
        order.append((system, number))
        values = medians.get(system, [1.0])
        return timed(launch(system, number, around(values[min(number, len(values)) - 1])))

    monkeypatch.setattr(run, "launch_row", launch_row)
    inputs: Any = type(
        "Inputs", (), {"workload": workloads.find("mini-cpu"), "directory": tmp_path}
    )()
    run.run(inputs, POINTS, options, Lines())
    return order


def test_an_unsettled_row_is_launched_again_beside_sppo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    medians = {"megatron": [1.5], "deepspeed": [1.2, 1.5, 1.2, 1.2, 1.2, 1.2]}
    options = Options(launches=3, budget_seconds=125)
    order = launched(monkeypatch, tmp_path, medians, options)
    assert order[9:11] == [("sppo", 4), ("deepspeed", 4)]
    assert {system for system, _ in order[9:]} == {"deepspeed", "sppo"}
    assert len(order) > 9
    assert SECONDS_OF_LAUNCH * (1 + len(order)) <= 125, "with the reference"


def test_steady_rows_and_a_budget_of_zero_launch_nothing_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steady = {"megatron": [1.5], "deepspeed": [1.2]}
    apart = {"megatron": [1.5, 2.5], "deepspeed": [1.2]}
    enough = Options(launches=3, budget_seconds=1000)
    none = Options(launches=3)
    single = Options(launches=1, budget_seconds=1000)
    assert len(launched(monkeypatch, tmp_path, steady, enough)) == 9
    assert len(launched(monkeypatch, tmp_path, apart, none)) == 9
    assert len(launched(monkeypatch, tmp_path, apart, single)) == 3


def test_unsettled_sppo_repeats_every_row() -> None:
    done = run_of({"megatron": (1.5, 1.5), "deepspeed": (1.2, 1.2), "sppo": (1.0, 1.5)})
    budget = Budget(seconds=100)
    rows = budget.next_round(POINTS, done, Lines())
    assert [point.row.system for point in rows] == ["megatron", "deepspeed", "sppo"]


def test_a_row_that_was_launched_once_repeats_nothing() -> None:
    """A sweep launches the points of a grid once, and goes on with the fastest."""
    done = run_of({"megatron": (1.5,), "deepspeed": (1.2,) * 3, "sppo": (1.0,) * 3})
    assert Budget(seconds=100).next_round(POINTS[1:], done, Lines()) == []


def test_a_round_that_would_pass_the_budget_is_announced_and_not_begun(
    capsys: pytest.CaptureFixture[str],
) -> None:
    budget = Budget(seconds=100)
    done = run_of({"sppo": (1.0, 1.5)})
    budget.note_launch(msgspec.structs.replace(done[-1], launch_seconds=95.0))
    assert budget.next_round(POINTS, done, Lines()) == []
    assert (
        "not settled: SPPO: a further launch would pass --budget 100 s" in capsys.readouterr().err
    )


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_a_budget_is_not_negative(wrong: float) -> None:
    with pytest.raises(ValueError, match="budget_seconds must be at least 0"):
        Options(budget_seconds=wrong)


def test_the_budget_counts_launches_from_before_a_stop() -> None:
    done = run_of({"sppo": (1.0, 1.5)})
    budget = Budget(seconds=25)
    for ended in done:
        budget.note_launch(timed(ended))
    assert budget.next_round(POINTS, done, Lines()) == []
    recorded = budget.next_round(POINTS, done, Lines(), is_recorded=lambda point: True)
    assert [point.row.system for point in recorded] == ["sppo"], "what is on disk costs nothing"
