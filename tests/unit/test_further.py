"""Further launches of unsettled rows, within the budget of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from benchmarks import workloads
from benchmarks.commands import arguments
from benchmarks.commands.flags import Launches
from benchmarks.launch import run
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.launch.rounds.further import Budget
from benchmarks.records import record as records
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
    monkeypatch.setattr(run, "gate", lambda directory, done, display, brief: done)
    monkeypatch.setattr(run, "remove_inputs", lambda inputs: None)


def timed(record: Record, seconds: float = SECONDS_OF_LAUNCH) -> Record:
    return msgspec.structs.replace(record, launch_seconds=seconds)


def launched(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    medians: dict[str, list[float]],
    options: Options,
    slow: Mapping[tuple[str, int], float] = MappingProxyType({}),
) -> list[tuple[str, int]]:
    """Rows and numbers of the launches of a run whose launches have these medians, in turn.

    slow: seconds of launches that take longer than SECONDS_OF_LAUNCH.
    """
    order: list[tuple[str, int]] = []

    def launch_row(inputs: Any, point: Configuration, number: int, *rest: Any) -> Record:
        system = point.row.system
        if system == "reference":
            return timed(record(system=system, row="Reference"))
        order.append((system, number))
        values = medians.get(system, [1.0])
        ended = launch(system, number, around(values[min(number, len(values)) - 1]))
        return timed(ended, slow.get((system, number), SECONDS_OF_LAUNCH))

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


STEADY = {"megatron": [1.5], "deepspeed": [1.2]}
TWO_ROUNDS = [
    *(("megatron", 1), ("deepspeed", 1), ("sppo", 1)),
    *(("sppo", 2), ("deepspeed", 2), ("megatron", 2)),
]


def test_the_third_launch_that_a_ratio_needs_is_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """70 s are spent after the reference and two rounds, and a round takes 30 s."""
    third = [("megatron", 3), ("deepspeed", 3), ("sppo", 3)]
    for seconds, expected in ((100, [*TWO_ROUNDS, *third]), (99, TWO_ROUNDS)):
        options = Options(launches=2, budget_seconds=seconds)
        assert launched(monkeypatch, tmp_path, STEADY, options) == expected


def test_a_round_that_turns_out_slow_is_cut_short_but_keeps_sppo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Megatron's third launch takes 15 s for 10: there is time for SPPO's, which makes a pair."""
    options = Options(launches=2, budget_seconds=100)
    order = launched(monkeypatch, tmp_path, STEADY, options, slow={("megatron", 3): 15.0})
    assert order == [*TWO_ROUNDS, ("megatron", 3), ("sppo", 3)]
    errors = capsys.readouterr().err
    assert "DeepSpeed Ulysses: a further launch would pass --budget 100 s" in errors


@pytest.mark.parametrize("seconds", [0.0, 20.0], ids=["finished", "a smaller budget"])
def test_a_resumed_run_reads_a_round_that_was_cut_short(
    seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A finished run is resumed without a budget."""
    for slug in ("megatron-tuned-3", "sppo-3"):
        path = tmp_path / slug / records.FILE_NAME
        path.parent.mkdir()
        path.touch()
    order = launched(monkeypatch, tmp_path, STEADY, Options(launches=2, budget_seconds=seconds))
    assert order == [*TWO_ROUNDS, ("megatron", 3), ("sppo", 3)]


def test_no_round_follows_one_that_was_cut_short() -> None:
    done = run_of({"deepspeed": (1.2, 1.5), "sppo": (1.0, 1.0)})
    budget = Budget(seconds=5)
    for ended in done:
        budget.note_launch(timed(ended, 2.0))
    points = [POINTS[1], POINTS[2]]
    assert list(budget.affordable(points, done, Lines())) == []
    budget.seconds = 1000
    assert budget.next_round(POINTS, done, Lines()) == []


def test_recorded_launches_of_a_round_are_read_whatever_they_took() -> None:
    """A resumed run with a budget that is spent reads what is on disk."""
    done = run_of({"deepspeed": (1.2, 1.5), "sppo": (1.0, 1.0)})
    budget = Budget(seconds=5, spent=8)
    points = [POINTS[1], POINTS[2]]
    recorded = budget.affordable(points, done, Lines(), is_recorded=lambda point: True)
    assert list(recorded) == points
    assert not budget.ended


@pytest.mark.parametrize(("device", "launches"), [("cpu", 2), ("cuda", 3)])
def test_the_default_number_of_launches_is_that_of_the_device(device: str, launches: int) -> None:
    cluster = replace(workloads.find("mini-cpu").cluster, device=device)
    assert arguments.options(Launches(), cluster).launches == launches
    assert arguments.options(Launches(launches=5), cluster).launches == 5


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
