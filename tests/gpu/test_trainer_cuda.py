"""Whole steps of one rank: offload, hosted K and V and recomputation change nothing but memory.

Every test runs on a CPU too, so that it is known to run where there is a GPU.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baselines.sppo import ADAPTER, SppoSettings
from benchmarks.accounting.accounting import Accounting
from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads
from sppo.config.models import gpt
from sppo.config.sizes import MIB
from sppo.config.workload import Cluster, Workload
from sppo.engine.context import EngineContext
from sppo.engine.trainer import Trainer
from sppo.offload.host_memory import CopyStreams
from sppo.plan.plan import Plan, StepPlans

ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_CUDA)]
PROFILES = {"cpu": "cpu-2core", "cuda": "h100-80g"}
TOLERANCES = {"cpu": 1e-6, "cuda": 2e-2}
"""Of loss and norm: the flash backward of CUDA adds up in no fixed order, in bfloat16."""

KEPT = SppoSettings(subsequences=4, policy="no-offload", kv_offload=False)
POLICIES = {
    "everything offloaded": replace(KEPT, policy="full-offload"),
    "recomputed": replace(KEPT, policy="lean"),
    "K and V in the host tier": replace(KEPT, kv_offload=True),
    "all of it": replace(KEPT, policy="full-offload", kv_offload=True),
}


def workload_on(device: str) -> Workload:
    return Workload(
        name="one-rank",
        model=gpt("gpt-small", layers=4, hidden=256, heads=4, vocabulary=256),
        cluster=Cluster(
            hardware=PROFILES[device],
            device="cuda" if device == "cuda" else "cpu",
            nodes=1,
            ranks_per_node=1,
        ),
        sequence_tokens=1024,
        dtype="bfloat16" if device == "cuda" else "float32",
    )


def trainer_of(
    workload: Workload, plan: Plan, device: torch.device, accounting: Accounting | None = None
) -> Trainer:
    dtype = torch.bfloat16 if workload.dtype == "bfloat16" else torch.float32
    weights = initial_weights(workload.model, 3, dtype)
    context = EngineContext(device=device, dtype=dtype)
    if accounting is not None:
        context = replace(context, label=accounting.label)
    (groups,) = connect_threads(plan)
    plans = StepPlans(whole=plan, short=plan)
    return Trainer(workload, plans, weights, context, groups)


def tokens_of(workload: Workload) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (workload.sequences_per_step, workload.sequence_tokens + 1)
    return torch.randint(0, workload.model.vocabulary, shape, generator=generator)


def two_steps(device: str, settings: SppoSettings) -> list[tuple[float, float]]:
    workload = workload_on(device)
    trainer = trainer_of(workload, ADAPTER.plan(workload, settings), torch.device(device))
    return [trainer.step(tokens_of(workload)) for _ in range(2)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", POLICIES)
def test_where_activations_lie_changes_nothing(device: str, policy: str) -> None:
    kept, moved = two_steps(device, KEPT), two_steps(device, POLICIES[policy])
    for step, kept_step in zip(moved, kept, strict=True):
        assert step == pytest.approx(kept_step, rel=TOLERANCES[device])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", POLICIES)
def test_counted_activations_are_those_of_the_plan(device: str, policy: str) -> None:
    workload = workload_on(device)
    plan = ADAPTER.plan(workload, POLICIES[policy])
    accounting = Accounting(torch.device(device))
    trainer = trainer_of(workload, plan, torch.device(device), accounting)
    trainer.step(tokens_of(workload))
    for kind, tensors in trainer.tensors().items():
        accounting.adopt(kind, tensors)
    with accounting:
        trainer.step(tokens_of(workload))
    accounting.close()
    memory = plan.stages[0].memory
    assert accounting.activation_peak_bytes == memory.activations_peak
    assert accounting.live_bytes <= memory.total


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cut_copy_does_not_hold_up_the_host() -> None:
    """A slice along the second axis of pinned memory is copied while the device computes."""
    device = torch.device("cuda")
    host = torch.rand(8, 4096, 1024).pin_memory()
    block = torch.rand(8, 1024, 1024, device=device)
    square = torch.rand(8192, 8192, device=device)
    copies = CopyStreams(device)
    torch.cuda.synchronize(device)
    busy = torch.cuda.Event()
    for _ in range(20):
        square = square @ square
    busy.record()
    copies.copy_to_host(block, host[:, 1024:2048])
    reloaded = torch.empty_like(block)
    copies.copy_to_device(reloaded, host[:, 2048:3072])
    assert not busy.query(), "the host has waited for the device"
    torch.cuda.synchronize(device)
    assert torch.equal(host[:, 1024:2048], block.cpu())
    assert torch.equal(host[:, 2048:3072], reloaded.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offloaded_tensors_are_freed_when_the_plan_says() -> None:
    """The allocator's own peak, not that of live tensors: nothing waits to be freed."""
    workload = replace(workload_on("cuda"), sequence_tokens=16_384)
    peaks = {}
    for name, settings in (("kept", KEPT), ("offloaded", POLICIES["everything offloaded"])):
        plan = ADAPTER.plan(workload, settings)
        trainer = trainer_of(workload, plan, torch.device("cuda"))
        trainer.step(tokens_of(workload))
        torch.cuda.reset_peak_memory_stats()
        trainer.step(tokens_of(workload))
        peaks[name] = torch.cuda.memory_stats()["active_bytes.all.peak"]
        peaks[f"{name}, planned"] = plan.stages[0].memory.total
        del trainer
    saved = peaks["kept"] - peaks["offloaded"]
    planned = peaks["kept, planned"] - peaks["offloaded, planned"]
    assert planned > 64 * MIB
    assert saved >= 0.9 * planned, peaks
