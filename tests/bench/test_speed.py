"""Speeds of single pieces: `pytest tests/bench/test_speed.py --benchmark-enable`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import workloads
from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads
from sppo.config.hardware import load_hardware
from sppo.config.models import gpt
from sppo.cost_model.plan_costs import plan_costs
from sppo.planner.layouts.partition import equal_cut
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.simulate import simulate
from tests.numerics.pipelines import engine_of, make_plan, run_pipeline

TINY = workloads.find("tiny-cpu")
PROFILE = load_hardware("cpu-2core")


def test_solver(benchmark: Any) -> None:
    plan = benchmark(solve, TINY, PROFILE)
    assert max(stage.memory.device_peak for stage in plan.stages) <= (TINY.device_memory_bytes or 0)


def test_schedule_and_simulation_of_128_subsequences(benchmark: Any) -> None:
    model = gpt("deep", layers=32, hidden=64, heads=4, vocabulary=256)
    plan = make_plan(model, equal_cut(4096, 128), stages=8, virtual_stages=2, share=0.5)
    costs = plan_costs(plan, PROFILE)

    def walk() -> int:
        schedule = build_schedule(plan)
        check_schedule(schedule)
        return simulate(schedule, costs).makespan

    assert benchmark(walk) > 0


def test_training_pass_of_one_process(benchmark: Any) -> None:
    """Forward and backward of 2,048 tokens in four subsequences through one stage."""
    weights = initial_weights(TINY.model, 1, torch.float32)
    tokens = torch.randint(0, 256, (1, 2049))
    plan = make_plan(TINY.model, equal_cut(2048, 4), stages=1, element_bytes=4)
    outcome = benchmark(run_pipeline, plan, weights, tokens, torch.float32)
    assert 5.0 < outcome.loss < 6.5


@pytest.mark.parametrize("subsequences", [1, 8])
def test_chunking_in_one_process(benchmark: Any, subsequences: int) -> None:
    """Forward and backward of 8,192 tokens (1,024 when only checked): what cutting costs."""
    tokens_count = 8192 if benchmark.enabled else 1024
    weights = initial_weights(TINY.model, 1, torch.float32)
    tokens = torch.randint(0, 256, (1, tokens_count + 1))
    cut = equal_cut(tokens_count, subsequences)
    plan = make_plan(TINY.model, cut, stages=1, element_bytes=4)
    (groups,) = connect_threads(plan)
    engine = engine_of(plan, weights, torch.float32, groups)
    counters = benchmark(engine.run, tokens, 1.0 / tokens_count)
    assert 5.0 < counters.loss < 6.5
