"""`sppo-bench simulate`: numbers against closed forms, and against the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.reporting import simulated_step
from benchmarks.rows.assign import sppo_plan
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulated(arguments: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["simulate", *arguments.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_papers_four_stages_and_eight_subsequences(
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = simulated("--pp 4 --n 8 --unit-costs", capsys)
    assert step["label"] == "simulated"
    assert step["unit"] == "cost units"
    assert step["forward_makespan"] == 11
    assert step["makespan"] == 33
    assert step["bubble_share"] == pytest.approx(3 / 11)
    assert step["bubble_ratio_paper"] == pytest.approx(3 / 8)
    assert step["peak_bytes_per_stage"] == [8] * 4
    assert step["exposed_transfer_seconds"] == [0] * 4
    assert step["messages"] == [8, 16, 16, 8]


@pytest.mark.parametrize(("stages", "count", "parts"), [(1, 1, 1), (2, 7, 1), (4, 8, 2), (3, 9, 4)])
def test_parts_divide_the_idle_ends(stages: int, count: int, parts: int) -> None:
    """In forwards through a whole stage: N + (PP - 1) / V."""
    step = simulated_step.of_unit_costs(
        pipeline_parallel=stages, subsequences=count, virtual_stages=parts
    )
    assert step.forward_makespan == pytest.approx(count + (stages - 1) / parts)
    assert step.bubble_ratio_paper == pytest.approx((stages - 1) / parts / count)


def test_sequences_come_one_after_another() -> None:
    one = simulated_step.of_unit_costs(pipeline_parallel=2, subsequences=4)
    two = simulated_step.of_unit_costs(pipeline_parallel=2, subsequences=4, sequences=2)
    assert one.makespan < two.makespan <= 2 * one.makespan
    assert two.messages == tuple(2 * count for count in one.messages)


def test_a_workload_is_simulated_as_its_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    step = simulated("mini-cpu --n 4", capsys)
    assert main(["plan", "mini-cpu", "--n", "4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert step["unit"] == "seconds"
    assert step["hardware"] == "cpu-2core"
    assert step["profile_kind"] == "measured"
    assert step["makespan"] == pytest.approx(plan["makespan_seconds"])
    assert step["bubble_share"] == pytest.approx(plan["bubble_share"])
    assert step["peak_bytes_per_stage"] == plan["predicted_peak_bytes"]
    assert len(step["message_bytes"]) == step["pipeline_parallel"] == plan["pipeline_parallel"]
    assert step["bubble_ratio_paper"] == pytest.approx(
        step["bubble_share"] / (1 - step["bubble_share"])
    )


def test_copies_that_take_compute_are_exposed() -> None:
    """What is offloaded goes both ways at the profile's rates, and on a CPU nothing hides it."""
    from sppo.planner.options import SolverOptions

    workload = find("mini-cpu").with_device_memory(None)
    options = SolverOptions(
        subsequences=4, pipeline_parallel=2, virtual_stages=1, policy="full-offload"
    )
    plan = sppo_plan(workload, options)
    profile = load_hardware("cpu-2core")
    step = simulated_step.of_plan(plan, profile)
    both_ways = 1 / profile.d2h_bytes_per_second + 1 / profile.h2d_bytes_per_second
    for moved, seconds in zip(
        step.host_peak_bytes_per_stage, step.exposed_transfer_seconds, strict=True
    ):
        assert moved > 0
        assert seconds == pytest.approx(moved * both_ways, rel=0.01)


def test_like_stages_share_a_line_and_every_table_says_simulated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["simulate", "--pp", "8", "--n", "8", "--unit-costs"]) == 0
    out = capsys.readouterr().out
    assert out.count("simulated") == 2
    assert "| 1 .. 6 " in out
    assert "15 cost units" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--unit-costs --pp 4", "needs --pp STAGES and --n SUBSEQUENCES"),
        ("--unit-costs --pp 0 --n 8", "--pipeline-parallel 0: it must be at least 1"),
        ("tiny-cpu --unit-costs --pp 4 --n 8", "leave WORKLOAD out"),
        ("--unit-costs --pp 4 --n 8 --policy auto", "leave --policy out"),
        ("mini-cpu --n 513", "take N of at most 512"),
    ],
)
def test_wrong_input(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_what_does_not_fit_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "tiny-cpu", "--device-memory", "1MiB", "--n", "4", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "infeasible"
