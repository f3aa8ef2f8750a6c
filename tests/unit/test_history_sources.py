"""What goes into the history: runs, checks, micro-benchmarks; what makes a run void."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.job import Memory
from benchmarks.records import record as records
from benchmarks.records.record import Record
from benchmarks.regression.history import from_check
from benchmarks.regression.history.entry import Machine
from benchmarks.regression.history.from_run import entries_of_run
from benchmarks.regression.history.sources import entries_of
from benchmarks.regression.history.void import void_reason
from tests.unit.history_cases import MACHINE
from tests.unit.records_factory import record
from tests.unit.timing_cases import BUSY, machine, run_of

STEPS = {"sppo": [1.0, 1.01, 1.0], "megatron": [1.3, 1.31, 1.3]}


def run_folder(folder: Path, done: list[Record]) -> Path:
    for number, each in enumerate(done):
        records.write(each, folder / f"{each.system}-{number}" / "record.json")
    return folder


def test_a_run_becomes_a_line_with_the_numbers_of_its_table(tmp_path: Path) -> None:
    (made,) = entries_of_run(run_folder(tmp_path, run_of(STEPS)))
    values = {each.name: each for each in made.metrics}
    assert made.commit == "a" * 40
    assert made.machine == Machine(cpu_model="a processor", cores=2, memory_gib=0)
    assert values["mini-cpu-152MiB/sppo/step_seconds"].value == pytest.approx(1.0)
    assert values["mini-cpu-152MiB/megatron-tuned/sppo_speed_up"].better == "more"
    assert values["mini-cpu-152MiB/sppo/peak_device_bytes"].value == 4 * 1024**2
    assert not made.void


def test_launches_on_two_machines_are_two_lines(tmp_path: Path) -> None:
    done = run_of(STEPS)
    moved = [
        msgspec.structs.replace(each, environment={**each.environment, "cores": 4}, row="SPPO 2")
        for each in run_of({"sppo": [1.0, 1.0, 1.0]})
    ]
    made = entries_of_run(run_folder(tmp_path, done + moved))
    assert sorted(each.machine.cores for each in made) == [2, 4]


def test_an_unsettled_row_is_void_and_the_others_are_not(tmp_path: Path) -> None:
    done = run_of(STEPS)
    done = [
        msgspec.structs.replace(each, machine_state=BUSY) if each.system == "sppo" else each
        for each in done
    ]
    (made,) = entries_of_run(run_folder(tmp_path, done))
    void = {each.name: each.void for each in made.metrics}
    assert "others took" in void["mini-cpu-152MiB/sppo/step_seconds"]
    assert void["mini-cpu-152MiB/megatron-tuned/step_seconds"] == ""
    assert not made.void


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "mismatch", "reason": "step 1"}, "losses differ: step 1"),
        ({"memory": [Memory(), Memory(allocation_retries=2)]}, "emptied its cache 2 times"),
        ({"machine_state": machine(gpu_clock_reasons=["hw thermal"])}, "hw thermal"),
        ({"machine_state": machine(foreign_gpu_processes=1)}, "1 other process(es) on a GPU"),
        ({"machine_state": machine(throttled_seconds=5.0)}, "no CPU quota for 50%"),
        ({"machine_state": machine(thermal_events=3)}, "too hot 3 times"),
    ],
)
def test_what_makes_a_run_void(changes: dict[str, Any], words: str) -> None:
    assert words in void_reason([record(), record(**changes)])


def test_a_power_cap_and_zero_counts_make_no_run_void() -> None:
    fine = machine(gpu_clock_reasons=["sw power cap"], foreign_gpu_processes=0, thermal_events=0)
    assert void_reason([record(machine_state=fine, memory=[Memory(allocation_retries=0)])]) == ""


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(value))
    return path


def test_a_check_becomes_the_main_numbers_of_its_topics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {
        "a": {"simulation": {"makespan_ns": 10}, "memory_bytes": {"total": [3, 5]}},
        "b": {"simulation": {"makespan_ns": 20}, "memory_bytes": {"total": [7]}},
        "c": {"calls": {"sppo.plan": 4, "sppo.planner": 5}},
    }
    data = msgspec.json.encode({"cases": cases})
    monkeypatch.setattr(from_check.git, "file_at", lambda *_: data)
    differences = [
        {"case": "b", "key": "simulation.makespan_ns", "old": 20, "new": 22, "share": 0.1},
        {"case": "b", "key": "memory_bytes.total.0", "old": 7, "new": 8},
        {"case": "c", "key": "calls.sppo.plan", "old": 4, "new": 6},
    ]
    topics = [
        {"topic": "plans", "outcome": "changed", "differences": differences},
        {"topic": "gloo", "outcome": "skipped", "differences": []},
    ]
    environment = {"commit": "a" * 40, "dirty": False, "cores": 2}
    checked = {"schema": "sppo-check/1", "topics": topics, "environment": environment}
    (made,) = entries_of(write(tmp_path / "check.json", checked))
    assert {each.name: each.value for each in made.metrics} == {
        "plans/changed_values": 3,
        "plans/a/makespan_ns": 10,
        "plans/a/peak_bytes": 5,
        "plans/b/makespan_ns": 22,
        "plans/c/calls": 11,
    }


CASES = {
    "a": {"simulation": {"makespan_ns": 10}, "memory_bytes": {"total": [3, 5]}, "status": "ok"},
    "b": {"calls": {"sppo.plan": 4, "sppo.planner": 5}},
}


def numbers_of_check(folder: Path, *differences: dict[str, Any], **further: Any) -> dict[str, Any]:
    """What the history keeps of a check of CASES with these differences."""
    topic = {"topic": "plans", "outcome": "changed", "differences": differences}
    environment = {"commit": "a" * 40, "dirty": False, "cores": 2}
    checked = {"schema": "sppo-check/1", "topics": [topic], "environment": environment}
    (made,) = entries_of(write(folder / "check.json", {**checked, **further}))
    assert made.metrics[0].name == "plans/changed_values"
    return {each.name.removeprefix("plans/"): each.value for each in made.metrics[1:]}


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = msgspec.json.encode({"cases": CASES})
    monkeypatch.setattr(from_check.git, "file_at", lambda *_: data)


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize(
    "difference",
    [
        {"key": "status", "old": "ok", "new": "failed"},
        {"key": "the case", "old": "expected", "new": "not made any more"},
        {"key": "simulation", "old": {"makespan_ns": 10}},
        {"key": "memory_bytes", "old": {"total": [3, 5]}},
    ],
)
def test_a_case_that_failed_or_is_gone_has_no_numbers(
    difference: dict[str, Any], tmp_path: Path
) -> None:
    assert numbers_of_check(tmp_path, {"case": "a", **difference}) == {"b/calls": 9}


@pytest.mark.usefixtures("committed")
def test_calls_are_those_of_all_packages(tmp_path: Path) -> None:
    """Of two packages one is gone, and a third one is new."""
    gone = {"case": "b", "key": "calls.sppo.plan", "old": 4}
    came = {"case": "b", "key": "calls.sppo.memory_model", "new": 100}
    assert numbers_of_check(tmp_path, gone, came)["b/calls"] == 105
    without_calls = {"case": "b", "key": "calls", "old": {"sppo.plan": 4}}
    assert "b/calls" not in numbers_of_check(tmp_path, without_calls)


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize(
    "further",
    [
        {"environment": {"commit": None, "cores": 2}},
        {"environment": {"commit": "a" * 40, "dirty": True, "cores": 2}},
        {"expected": "/elsewhere/expected"},
    ],
    ids=["unknown commit", "changes of another checkout", "another folder of expected values"],
)
def test_a_check_of_other_expected_values_has_no_numbers(
    further: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the working tree has values of the same topic."""
    write(tmp_path / "results" / "expected" / "plans.json", {"cases": CASES})
    monkeypatch.setattr(from_check, "CHECKOUT", tmp_path)
    assert numbers_of_check(tmp_path, **further) == {}


def perf(**further: Any) -> dict[str, Any]:
    bench = {
        "name": "test_target[planning]",
        "stats": {"min": 0.5, "median": 0.6, "rounds": 5},
        "extra_info": {"target": "planning", "size": "tiny-cpu"},
    }
    common = {"machine_info": {}, "benchmarks": [bench], "datetime": "2026-11-28T10:00:00"}
    return {**common, **further}


def test_micro_benchmarks_keep_their_least_time(tmp_path: Path) -> None:
    environment = {"cpu_model": "a processor", "cores": 2, "memory_bytes": 24 * 1024**3}
    (made,) = entries_of(write(tmp_path / "perf.json", perf(environment=environment)))
    assert made.machine == MACHINE
    (least,) = made.metrics
    assert (least.name, least.value, least.setting) == ("planning/least_seconds", 0.5, "tiny-cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not JSON", "not JSON"),
        (b"{}", "neither of the known sources"),
        (msgspec.json.encode(perf()), "make the file by `tox -e perf`"),
        (b'{"schema": "sppo-check/9", "topics": []}', "is newer than 'sppo-check/1'"),
        (b'{"schema": "sppo-check/1", "topics": 1}', "Expected `array`"),
    ],
)
def test_a_wrong_source_is_one_line(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "source.json"
    path.write_bytes(content)
    assert main(["history", "add", str(path), "--history", str(tmp_path / "h")]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "h").exists()
