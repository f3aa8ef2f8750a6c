"""The time limit of a launch leaves room for every known step, and is never short."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from benchmarks import workloads
from benchmarks.cli import main
from benchmarks.launch import time_limits
from benchmarks.launch.options import Options
from benchmarks.launch.time_limits import FLOOR_SECONDS, UNKNOWN_SECONDS, limit_seconds
from benchmarks.paper import reported
from benchmarks.paper.layout_rules import LAYOUT_RULES
from benchmarks.rows.assign import assign
from benchmarks.rows.row import REFERENCE, Configuration, Row, find
from tests.unit.docs_text import CHECKOUT

STEPS = Options().steps
TUNED = Row(label="Tuned", system="megatron", choosing="tuned")


def limit(workload: str, **settings: int) -> float:
    row = Configuration(row=TUNED, settings=settings)
    return limit_seconds(workloads.find(workload), row, STEPS)


def test_every_emulated_step_of_the_paper_has_three_times_its_time() -> None:
    """Peers have no simulated step before a launch; emulation gave these."""
    points = {(point.model, point.seq, point.gpus): point for point in reported.points()}
    rules = {rule.name: rule for rule in LAYOUT_RULES}
    file = CHECKOUT / "results" / "published" / "emulation" / "fig10-4-sequences.json"
    checked = 0
    for verdict in json.loads(file.read_bytes())["verdicts"]:
        rule = rules.get(verdict.get("rule_name", verdict.get("reading")))
        if rule is None or rule.settings is None or verdict["step_seconds"] is None:
            continue
        point = points[verdict["model"], verdict["seq"], verdict["gpus"]]
        settings = msgspec.to_builtins(rule.settings(point))
        row = Configuration(row=TUNED, settings=settings)
        workload = point.workload(sequences_per_step=4)
        assert limit_seconds(workload, row, STEPS) > 3 * STEPS * verdict["step_seconds"]
        checked += 1
    assert checked > 20


def test_the_launch_that_could_not_end_now_fits() -> None:
    """Megatron's step of this workload is simulated at 39.6 s in a pipeline of all ranks."""
    assert limit("gpt-7b-128k-8xh100", pipeline_parallel=8) > 3 * STEPS * 39.6


def test_longer_sequences_and_pipelines_have_longer_limits() -> None:
    million, two = limit("gpt-7b-1m-32xa100"), limit("gpt-7b-2m-64xa100")
    assert FLOOR_SECONDS < million < two
    assert limit("gpt-7b-1m-32xa100", pipeline_parallel=4) > 3 * million
    assert limit("tiny-cpu") == FLOOR_SECONDS


def test_replicas_share_the_sequences_that_fill_a_pipeline() -> None:
    workload = replace(workloads.find("gpt-7b-128k-8xh100"), sequences_per_step=2)
    alone = Configuration(row=TUNED, settings={"pipeline_parallel": 4, "tensor_parallel": 2})
    replicas = Configuration(
        row=TUNED, settings={"pipeline_parallel": 4, "sequence_parallel": False}
    )
    times = [time_limits.expected_step_seconds(workload, row) for row in (alone, replicas)]
    assert times[1] / times[0] == pytest.approx((1 + 3) / 1 / ((2 + 3) / 2))


def test_a_plan_gives_its_own_step() -> None:
    workload = workloads.find("gpt-7b-1m-32xa100")
    (row,) = find(["sppo"])
    planned = assign(row, workload)
    assert planned.plan is not None
    step_seconds = time_limits.expected_step_seconds(workload, planned)
    assert step_seconds >= planned.plan["makespan_seconds"]
    assert limit_seconds(workload, planned, STEPS) >= 10 * STEPS * step_seconds


def test_the_reference_has_one_rank_and_hardware_may_be_unknown() -> None:
    workload = workloads.find("gpt-7b-128k-8xh100")
    reference = Configuration(row=REFERENCE)
    peer = Configuration(row=TUNED)
    times = [time_limits.expected_step_seconds(workload, row) for row in (reference, peer)]
    assert times[0] == pytest.approx(8 * times[1])
    unknown = replace(workload, cluster=replace(workload.cluster, hardware="of-tomorrow"))
    assert limit_seconds(unknown, peer, STEPS) == UNKNOWN_SECONDS


@pytest.mark.parametrize("flags", [[], ["--time-limit", "77"]])
def test_a_dry_run_shows_the_limits(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "gpt-7b-128k-8xh100", "--systems", "sppo", "--launches", "1", "--dry-run"]
    assert main([*arguments, *flags]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "time limit" in line]
    assert len(lines) == 3, "both references and SPPO"
    assert all(("77 s" in line) == bool(flags) for line in lines)
    assert lines[2].endswith("s for 8 steps")


@pytest.mark.parametrize("value", ["inf", "nan", "0", "-inf"])
@pytest.mark.parametrize(
    "command",
    [
        ["run", "mini-cpu"],
        ["sweep", "mini-cpu", "--sequences-per-step", "1"],
        ["longest", "mini-cpu"],
        ["ablation", "mini-cpu"],
        ["emulate", "megatron", "mini-cpu"],
        ["paper"],
    ],
)
def test_a_limit_that_is_no_time_is_wrong_input(
    command: list[str], value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, f"--time-limit={value}"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
