"""The pieces that `sppo-bench compare` times, under pytest-benchmark: `tox -e perf`.

Elsewhere each runs once and nothing is timed (`--benchmark-disable` in pyproject.toml).
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.regression.targets.registry import TARGETS
from benchmarks.regression.targets.target import Target
from benchmarks.worker.weights import initial_weights
from benchmarks.workloads import find


@pytest.mark.benchmark(warmup=True, disable_gc=True, min_rounds=5, max_time=1.0)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_target(benchmark: Any, target: Target) -> None:
    benchmark.extra_info.update(target=target.name, size=target.description)
    with target.prepare() as repetition:
        result = benchmark(repetition)
    assert result is not None, "the work was done"
    if hasattr(result, "isfinite"):
        assert result.isfinite().all()


@pytest.mark.benchmark(warmup=True, disable_gc=True, min_rounds=5, max_time=1.0)
@pytest.mark.parametrize("subsequences", [1, 8])
def test_chunking(benchmark: Any, subsequences: int) -> None:
    """What cutting costs: the same tokens in 1 or 8 subsequences; fewer where nothing is timed."""
    import torch

    from sppo.comm.in_process import connect_threads
    from sppo.planner.layouts.partition import equal_cut
    from tests.numerics.pipelines import engine_of, make_plan

    model = find("tiny-cpu").model
    count = 2048 if benchmark.enabled else 512
    torch.set_num_threads(1)
    weights = initial_weights(model, 1, torch.float32)
    tokens = torch.randint(0, 256, (1, count + 1), generator=torch.Generator().manual_seed(1))
    plan = make_plan(model, equal_cut(count, subsequences), stages=1, element_bytes=4)
    (groups,) = connect_threads(plan)
    engine = engine_of(plan, weights, torch.float32, groups)
    benchmark.extra_info.update(
        target=f"chunking-{subsequences}",
        size=f"forward and backward of {count:,} tokens in {subsequences} subsequences, tiny-cpu",
    )
    counters = benchmark(engine.run, tokens, 1.0 / count)
    assert 5.0 < counters.loss < 6.5
