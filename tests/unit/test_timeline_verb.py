"""`sppo-bench timeline`: its files, simulated and measured."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.records import record as records
from benchmarks.records import timeline
from benchmarks.records.plan_record import plan_data
from benchmarks.rows.assign import sppo_plan
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from tests.unit.records_factory import record

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_plan() -> Plan:
    options = SolverOptions(pipeline_parallel=2, subsequences=4, virtual_stages=1)
    plan: Plan = sppo_plan(find("mini-cpu"), options)
    return plan


def make_run(folder: Path, **changes: object) -> Path:
    """A run with one launch whose ranks took twice the simulated time, on a late clock."""
    plan = make_plan()
    launch = folder / "run" / "sppo-1"
    told = msgspec.json.decode(msgspec.json.encode(plan_data(plan)))
    records.write(record(**{"plan": told, **changes}), launch / "record.json")
    for rank, events in enumerate(timeline.simulated(plan, load_hardware(plan.hardware))):
        measured = [
            msgspec.structs.replace(
                event,
                start_ns=7_000_000 + 2 * event.start_ns,
                end_ns=7_000_000 + 2 * event.end_ns,
            )
            for event in events
        ]
        (launch / f"timeline-{rank}.json").write_bytes(msgspec.json.encode(measured))
    return folder / "run"


def step_end(path: Path) -> float:
    events = json.loads(path.read_text())["traceEvents"]
    return max(event["ts"] + event["dur"] for event in events if event["ph"] == "X")


def test_the_simulated_step_has_every_instruction_in_its_lane() -> None:
    plan = make_plan()
    steps = timeline.simulated(plan, load_hardware(plan.hardware))
    assert len(steps) == 2
    for rank, events in enumerate(steps):
        names = [event.name for event in events]
        assert len(set(names)) == len(names)
        lanes = {event.name: event.lane for event in events}
        assert all(lanes[f"{op}0.{index}@{rank}"] == "compute" for op in "FB" for index in range(4))
        sends = {name for name, lane in lanes.items() if lane == "p2p"}
        assert sends == {f"SEND_{'FB'[rank]}0.{index}@{rank}" for index in range(4)}
        for name, lane in lanes.items():
            assert (lane == "d2h") == name.startswith("OFFLOAD")
            assert (lane == "h2d") == name.startswith("RELOAD")
    assert timeline.bubble_share(steps) == pytest.approx(plan.bubble_share)


def test_overlapped_copies_leave_the_plans_bubble_share() -> None:
    options = SolverOptions(pipeline_parallel=8, subsequences=12)
    plan = sppo_plan(find("gpt-7b-128k-8xh100"), options)
    profile = load_hardware("h100-80g")
    steps = timeline.simulated(plan, profile)
    share = timeline.bubble_share(steps, overlapped_copies=profile.overlapped_copies)
    assert share == pytest.approx(plan.bubble_share, abs=1e-6)


def test_a_simulated_timeline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", "mini-cpu", "--pp=2", "--n=4", "--virtual-stages=1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["directory"]).name == "timeline-mini-cpu"
    where = folder / "results" / "runs" / "timeline-mini-cpu"
    files = {str(path.relative_to(where)) for path in where.rglob("*") if path.is_file()}
    assert files == {"simulated/rank-0.json", "simulated/rank-1.json", "timeline.png"}
    assert (where / "timeline.png").read_bytes().startswith(PNG)
    assert step_end(where / "simulated" / "rank-0.json") == pytest.approx(
        make_plan().makespan_seconds * 1e6, rel=1e-3
    )


def test_a_measured_step_lies_beside_the_plan_that_ran(folder: Path) -> None:
    run = make_run(folder)
    assert main(["timeline", "--run", str(run)]) == 0
    where = run / "timeline"
    assert (where / "timeline.png").read_bytes().startswith(PNG)
    for rank in range(2):
        simulated = step_end(where / "simulated" / f"rank-{rank}.json")
        measured = step_end(where / "measured" / f"rank-{rank}.json")
        assert measured == pytest.approx(2 * simulated)
        trace = json.loads((where / "measured" / f"rank-{rank}.json").read_text())
        assert trace["label"] == "measured"
        assert trace["distributedInfo"]["rank"] == rank


def test_the_figure_names_machine_commit_and_both_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.reporting import timeline_figure

    seen: list[timeline_figure.Panel] = []
    monkeypatch.setattr(timeline_figure, "draw", lambda panels, path, title: seen.extend(panels))
    assert main(["timeline", "mini-cpu", "--run", str(make_run(folder)), "--output", "x"]) == 0
    assert [panel.label for panel in seen] == ["simulated", "measured"]
    assert "measured profile cpu-2core" in seen[0].caption
    assert "a processor, 2 cores, commit aaaaaaaaa, 2026-11-24" in seen[1].caption


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({}, "tiny-cpu", "ran mini-cpu, not tiny-cpu"),
        ({}, "--n 4", "leave --subsequences out"),
        ({"status": "oom"}, "", "no launch with status ok has timeline"),
        ({"plan": {"workload": "old"}}, "", "not of this version"),
        ({"plan": None}, "", "not of this version"),
    ],
)
def test_a_run_that_cannot_be_drawn(
    folder: Path,
    changes: dict[str, object],
    arguments: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run(folder, **changes)
    assert main(["timeline", *arguments.split(), "--run", str(run)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not (run / "timeline").exists()


def test_no_such_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", "--run", "absent"]) == 2
    assert "no folder absent" in capsys.readouterr().err


def test_what_does_not_fit_exits_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", "tiny-cpu", "--n", "4", "--device-memory", "1MiB"]) == 1
    assert "infeasible" in capsys.readouterr().out
    assert not (folder / "results" / "runs").exists()
