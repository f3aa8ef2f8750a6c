"""SPPO over real gloo ranks: predicted = counted, and the messages of the simulator."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from baselines.protocol import Context
from baselines.sppo import ADAPTER, SppoSettings
from benchmarks.accounting import Accounting
from benchmarks.weights import initial_weights
from sppo.costs import load_profile
from sppo.solver import simulate_plan, solve
from sppo.workload import MIB, Cluster, Workload, gpt, llama
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

CLUSTER = Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2)
GPT = Workload(
    name="gpt",
    model=gpt("gpt-test", layers=4, hidden=64, heads=4, vocabulary=256),
    cluster=CLUSTER,
    sequence_tokens=1024,
)
LLAMA = replace(
    GPT,
    name="llama",
    model=llama("llama", layers=4, hidden=64, heads=4, kv_heads=2, ffn=176, vocabulary=256),
)


def _account(rank: int, ranks: int, jobs: list[tuple[Workload, SppoSettings]]) -> list[Any]:
    """One accounted step per job on this rank."""
    device = torch.device("cpu")
    results = []
    for workload, settings in jobs:
        accounting = Accounting(device)
        context = Context(
            rank=rank, ranks=ranks, device=device, dtype=torch.float32, label=accounting.label
        )
        weights = initial_weights(workload.model, workload.seed, torch.float32)
        system = ADAPTER.prepare(workload, settings, weights, context)
        tokens = torch.randint(0, 256, (workload.sequences_per_step, workload.sequence_tokens + 1))
        system.step(tokens)  # optimizer state appears in the first step
        system.transport_before = asdict(system.trainer.transport.traffic)
        for kind, tensors in system.tensors().items():
            accounting.adopt(kind, tensors)
        with accounting:
            system.step(tokens)
        accounting.close()
        traffic = system.trainer.transport.traffic
        results.append(
            {
                "activations": accounting.activation_peak_bytes,
                "kept": accounting.peak_by_kind["activations"],
                "total": accounting.peak_bytes,
                "by_kind": dict(accounting.at_peak_by_kind),
                "host": system.trainer.engine.stage.buffers.arena.peak_bytes,
                "offloaded": system.trainer.counters.offloaded_bytes,
                "fetched": system.trainer.counters.fetched_bytes,
                "messages": traffic.messages - system.transport_before["messages"],
                "message_bytes": traffic.bytes - system.transport_before["bytes"],
            }
        )
    return results


def test_predicted_equals_counted() -> None:
    jobs = [
        (GPT, SppoSettings(subsequences=4)),
        (GPT, SppoSettings(subsequences=5, policy="full-offload")),
        (GPT.with_device_memory(10 * MIB), SppoSettings(subsequences=6)),
        (LLAMA, SppoSettings(subsequences=3, policy="full-offload", cut="equal")),
        (replace(LLAMA, sequences_per_step=3), SppoSettings(subsequences=4)),
    ]
    by_rank = run_ranks(_account, 2, jobs)
    for index, (workload, settings) in enumerate(jobs):
        plan = solve(workload, load_profile("cpu-2core"), settings.options())
        simulation = simulate_plan(plan, load_profile("cpu-2core"))
        for rank, results in enumerate(by_rank):
            counted = results[index]
            memory = plan.stages[rank].memory
            where = f"{workload.name}, {settings}, rank {rank}: {counted}, {memory}"
            assert counted["activations"] == memory.activations_peak, where
            assert counted["kept"] == memory.kept_peak, where
            assert counted["kept"] == simulation.kept_peak_bytes[rank], where
            assert counted["host"] == memory.host, where
            assert counted["offloaded"] == counted["fetched"], where
            assert counted["messages"] == simulation.messages[rank], where
            assert counted["message_bytes"] == simulation.message_bytes[rank], where
            assert counted["by_kind"]["weights"] == memory.weights, where
            assert counted["by_kind"]["gradients"] == memory.gradients, where
            assert counted["total"] <= memory.total, where
    limited = solve(jobs[2][0], load_profile("cpu-2core"), jobs[2][1].options())
    assert limited.stages[0].memory.host > 0, "the limited case must offload, or it tests nothing"
