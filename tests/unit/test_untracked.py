"""Planned untracked bytes: by kernel and shape on a CPU, in the reserve on CUDA."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import workloads
from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS
from sppo.config.sizes import GIB, KIB, MIB
from sppo.memory_model.untracked import untracked
from sppo.plan.parts import PartShape
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

CPU = load_hardware("cpu-2core")
A100 = load_hardware("a100-80g")
TINY = workloads.find("tiny-cpu")
SHAPE = PartShape(model=MODELS["gpt-tiny"], layers=range(2), head=False, element_bytes=4)


def test_a_gelu_has_code_for_each_count_of_tokens_and_direction() -> None:
    once = untracked(SHAPE, CPU, tokens={512}, keys=1024, connections=2)
    thrice = untracked(SHAPE, CPU, tokens={512, 640, 704}, keys=1024, connections=2)
    assert once.code == 2 * CPU.kernel_code_bytes
    assert thrice.code == 6 * CPU.kernel_code_bytes
    gated = replace(SHAPE, model=replace(MODELS["gpt-tiny"], activation="swiglu"))
    assert untracked(gated, CPU, tokens={512, 640}, keys=1024, connections=2).code == 0


@pytest.mark.parametrize(("queries", "rows"), [(767, 64), (768, 256), (192, 64), (191, 32)])
def test_attention_takes_scores_of_a_block_on_a_cpu(queries: int, rows: int) -> None:
    sizes = untracked(SHAPE, CPU, tokens={queries}, keys=4096, connections=0)
    assert sizes.scratch == 2 * rows * 512 * 4


def test_on_a_cpu_everything_counts_against_the_limit() -> None:
    plan = solve(TINY, CPU)
    for stage in plan.stages:
        sizes = stage.memory.untracked
        assert sizes.charged == sizes.total > 0
        assert stage.memory.device_peak == stage.memory.total + sizes.total
        assert TINY.device_memory_bytes is not None
        assert stage.memory.device_peak <= TINY.device_memory_bytes


def test_slices_of_subsequences_need_code_of_their_own() -> None:
    without = solve(TINY, CPU, SolverOptions(subsequences=4, msp=False, stage_sharding="tensor"))
    split = solve(TINY, CPU, SolverOptions(subsequences=4, msp=True))
    kernels = [p.stages[0].memory.untracked.code // CPU.kernel_code_bytes for p in (without, split)]
    assert kernels == [8, 12]


def test_on_cuda_the_reserve_holds_it_up_to_its_end() -> None:
    shape = replace(SHAPE, model=MODELS["gpt-7b"], element_bytes=2, shards=8)
    sizes = untracked(shape, A100, tokens={65536}, keys=65536, connections=4)
    heads, width = 32, 128
    assert sizes.scratch == 65536 * heads * (width + 2) * 4 // 8
    assert sizes.workspaces == 2 * (8320 * KIB + MIB)
    assert sizes.communicators == 2 * A100.communicator_bytes + 4 * A100.connection_bytes
    assert sizes.charged == 0
    long = untracked(shape, A100, tokens={2**20}, keys=2**20, connections=4)
    assert long.charged == long.total - (A100.reserve_bytes - A100.context_bytes)
    assert long.charged > 0


def test_grouped_heads_need_the_gradients_of_every_head_on_cuda() -> None:
    grouped = replace(SHAPE, model=MODELS["llama-8b"], element_bytes=2, shards=8)
    few = untracked(grouped, A100, tokens={4096}, keys=4096, connections=0)
    many = untracked(grouped, A100, tokens={4096}, keys=8192, connections=0)
    assert many.scratch - few.scratch == 2 * 4096 * grouped.model.hidden * 2 // 8


def test_the_papers_largest_plan_leaves_the_allocator_room_for_its_kernels() -> None:
    from benchmarks.worker.device import UNSEEN_BYTES

    workload = replace(
        workloads.find("gpt-7b-128k-8xh100"), sequence_tokens=2**20, name="long"
    ).with_device_memory(None)
    layout = min(
        every_layout(workload, load_hardware("h100-80g"), SolverOptions(subsequences=8)),
        key=lambda candidate: candidate.least_seconds,
    )
    sizes = stage_problem(layout, 0).untracked
    assert sizes.scratch + sizes.workspaces + sizes.process < UNSEEN_BYTES < 2 * GIB
