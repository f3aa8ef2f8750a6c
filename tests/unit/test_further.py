"""Further launches of unsettled rows, within the budget of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


class Clock:
    """A clock that a launch moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(run, "gate", lambda directory, done, display: done)
    monkeypatch.setattr(run, "remove_inputs", lambda inputs: None)
    monkeypatch.setattr(run, "Budget", lambda seconds: Budget(seconds=seconds, clock=clock))
    return clock


def launched(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    medians: dict[str, list[float]],
    options: Options,
) -> list[tuple[str, int]]:
    """Rows and numbers of the launches of a run whose launches have these medians, in turn."""
    order: list[tuple[str, int]] = []

    def launch_row(inputs: Any, point: Configuration, number: int, *rest: Any) -> Record:
        clock.now += SECONDS_OF_LAUNCH
        system = point.row.system
        if system == "reference":
            return record(system=system, row="Reference")
        order.append((system, number))
        values = medians.get(system, [1.0])
        return launch(system, number, around(values[min(number, len(values)) - 1]))

    monkeypatch.setattr(run, "launch_row", launch_row)
    inputs: Any = type(
        "Inputs", (), {"workload": workloads.find("mini-cpu"), "directory": tmp_path}
    )()
    run.run(inputs, POINTS, options, Lines())
    return order


def test_an_unsettled_row_is_launched_again_beside_sppo(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    medians = {"megatron": [1.5], "deepspeed": [1.2, 1.5, 1.2, 1.2, 1.2, 1.2]}
    options = Options(launches=2, budget_seconds=125)
    order = launched(clock, monkeypatch, tmp_path, medians, options)
    assert order[6:8] == [("deepspeed", 3), ("sppo", 3)]
    assert {system for system, _ in order[6:]} == {"deepspeed", "sppo"}
    assert len(order) > 6
    assert clock.now <= 125


def test_steady_rows_and_a_budget_of_zero_launch_nothing_more(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steady = {"megatron": [1.5], "deepspeed": [1.2]}
    apart = {"megatron": [1.5, 2.5], "deepspeed": [1.2]}
    enough = Options(launches=2, budget_seconds=1000)
    none = Options(launches=2)
    single = Options(launches=1, budget_seconds=1000)
    assert len(launched(clock, monkeypatch, tmp_path, steady, enough)) == 6
    assert len(launched(clock, monkeypatch, tmp_path, apart, none)) == 6
    assert len(launched(clock, monkeypatch, tmp_path, apart, single)) == 3


def test_unsettled_sppo_repeats_every_row() -> None:
    done = run_of({"megatron": (1.5, 1.5), "deepspeed": (1.2, 1.2), "sppo": (1.0, 1.5)})
    budget = Budget(seconds=100, clock=Clock())
    rows = budget.next_round(POINTS, done, Lines())
    assert [point.row.system for point in rows] == ["megatron", "deepspeed", "sppo"]


def test_a_round_that_would_pass_the_budget_is_announced_and_not_begun(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    budget = Budget(seconds=100, clock=clock)
    clock.now = 95.0
    budget.note_launch("SPPO")
    done = run_of({"sppo": (1.0, 1.5)})
    assert budget.next_round(POINTS, done, Lines()) == []
    assert (
        "not settled: SPPO: a further launch would pass --budget 100 s" in capsys.readouterr().err
    )


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_a_budget_is_not_negative(wrong: float) -> None:
    with pytest.raises(ValueError, match="budget_seconds must be at least 0"):
        Options(budget_seconds=wrong)
