"""The head-to-head on four ranks, in small: real launches, equal work, counters as planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.launch import preparing, run
from benchmarks.launch.progress import Lines
from benchmarks.reporting import tables
from benchmarks.rows import assign
from benchmarks.rows import row as rows

pytestmark = [pytest.mark.slow, pytest.mark.soak]

FOUR = replace(
    workloads.find("tiny-cpu-4rank"),
    name="mini-cpu-4rank",
    model=workloads.find("mini-cpu").model,
    sequence_tokens=1024,
)
OPTIONS = run.Options(launches=1, warmup_steps=0, measured_steps=2, time_limit_seconds=180)


def test_four_ranks_do_equal_work_and_count_what_is_planned(tmp_path: Path) -> None:
    directory = run.new_directory(tmp_path, FOUR.name)
    inputs = preparing.prepare(FOUR, OPTIONS, directory)
    inputs = replace(inputs, environment={**inputs.environment, "cores": 2})
    chosen = [assign.assign(row, FOUR) for row in rows.find(["megatron-same-layout", "sppo"])]
    assert [row.settings_text[:7] for row in chosen] == ["TP2 PP2", "PP2 SP2"]
    done = run.run(inputs, chosen, OPTIONS, Lines())
    assert [record.status for record in done] == ["ok", "ok", "ok"], [one.reason for one in done]
    told = tables.text(done)
    assert "4 ranks shared 2 cores: times and rates are NO result here" in told
    assert "every ok row agrees with the plain torch reference" in told
    assert "by rank, exactly as predicted" in told
    assert told.count("exactly as predicted") == 3, told
    assert "NOT as predicted" not in told
    assert {summary.sppo_speed_up for summary in tables.summaries(done)} == {None}
