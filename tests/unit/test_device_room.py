"""A GPU that is too full is found before a step, and is an `oom` whoever could not allocate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from benchmarks import workloads
from benchmarks.worker import device as devices
from benchmarks.worker.failures import status_of
from sppo.comm.messages import Channel
from sppo.config.hardware import load_hardware
from sppo.config.sizes import GIB, MIB
from sppo.engine.device_room import check_room
from sppo.engine.engine import connections_of
from sppo.plan.plan import Plan, StageMemory, Untracked
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule

CUDA = torch.device("cuda", 0)
H100 = load_hardware("h100-80g")
EIGHT = workloads.find("gpt-7b-128k-8xh100")
MEMORY = StageMemory(
    **dict.fromkeys(
        (
            *("weights", "gradients", "optimizer", "kv", "dkv", "kept", "kept_peak"),
            *("staging", "constants", "temporary", "host", "kv_host"),
        ),
        GIB,
    ),
    untracked=Untracked(scratch=GIB, workspaces=GIB, communicators=7 * GIB),
)
"""9 GiB of tensors at the peak, and 2 GiB of scratch and workspaces to come."""


def give(monkeypatch: pytest.MonkeyPatch, *, free: int, reserved: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)


def test_a_gpu_without_room_for_the_plan_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, free=8 * GIB, reserved=3 * GIB)
    with pytest.raises(torch.OutOfMemoryError, match=r"11.00 GiB.*12.00 GiB.*lower the limit by"):
        check_room(replace(MEMORY, kept=2 * GIB), CUDA)


def test_communicators_that_are_made_already_are_not_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, free=8 * GIB, reserved=3 * GIB)
    check_room(replace(MEMORY, untracked=replace(MEMORY.untracked, communicators=70 * GIB)), CUDA)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "NCCL error in: a.cpp:1, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
        "unhandled cuda error\nLast error:\nFailed to CUDA calloc async 10485760 bytes",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, dist.DistBackendError])
def test_a_library_without_device_memory_is_an_oom(kind: Any, message: str) -> None:
    assert status_of(kind(message), limit_in_force=False) == "oom"


@pytest.mark.parametrize(
    "message",
    [
        "unhandled cuda error\nLast error:\nCuda failure 1 'invalid argument'",
        "unhandled cuda error\nLast error:\nCuda failure 217 'peer access is not supported'",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_other_errors_of_these_libraries_are_failures(message: str) -> None:
    assert status_of(RuntimeError(message), limit_in_force=True) == "failed"
    assert not devices.is_out_of_memory(ValueError("CUDA error: out of memory"), True)


def connections_by_stage(plan: Plan) -> list[int]:
    ends = [end for each in connections_of(build_schedule(plan)) for end in each[:2]]
    return [ends.count(stage) for stage in range(plan.pipeline_parallel)]


@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("msp", [False, True])
def test_every_connection_of_a_schedule_is_charged(stages: int, msp: bool) -> None:
    options = SolverOptions(pipeline_parallel=stages, subsequences=16, msp=msp, virtual_stages=1)
    plan = solve(EIGHT.with_device_memory(None), H100, options)
    assert bool(plan.msp_splits) == msp
    counted = connections_by_stage(plan)
    planned = [plan.connections_of(stage) for stage in range(stages)]
    assert all(a >= b for a, b in zip(planned, counted, strict=True)), (planned, counted)
    if msp:
        assert planned == counted
        channels = {each.channel for each in connections_of(build_schedule(plan))}
        assert channels == set(Channel)


def test_a_connection_takes_a_communicator_of_four_channels() -> None:
    unlimited = EIGHT.with_device_memory(None)
    plan = solve(unlimited, H100, SolverOptions(pipeline_parallel=8, subsequences=16, msp=True))
    stage = plan.stages[4].memory.untracked
    groups = 1 + (plan.sequence_parallel > 1) + (plan.data_parallel > 1)
    connections = plan.connections_of(4) * (10 + 2 * 4) * MIB
    assert stage.communicators == groups * H100.communicator_bytes + connections
    assert stage.communicators < H100.reserve_bytes - H100.context_bytes
