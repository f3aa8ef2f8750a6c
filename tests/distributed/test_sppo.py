"""SPPO over real gloo ranks: equal work, predicted = counted, the simulator's messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines import reference
from baselines.protocol import Context, StepResult
from baselines.sppo import ADAPTER, SppoSettings
from benchmarks.accounting.accounting import Accounting
from benchmarks.records.equal_work import TOLERANCE, equal_work
from benchmarks.records.record import StepRecord
from benchmarks.rows.assign import step_plans
from benchmarks.worker.weights import initial_weights
from sppo.comm.mesh import RankGroups, coordinate_of, join_groups
from sppo.comm.messages import Channel, GroupTransport
from sppo.config.hardware import load_hardware
from sppo.config.models import gpt, llama
from sppo.config.sizes import MIB
from sppo.config.workload import Cluster, Optimizer, Workload
from sppo.cost_model.collectives import (
    context_collectives,
    replica_collectives,
    shard_collectives,
    ulysses_collectives,
    weight_collectives,
)
from sppo.cost_model.hosted_kv import stage_kv_copied_bytes
from sppo.cost_model.plan_costs import simulate_plan
from sppo.engine.engine import connections_of
from sppo.schedule.build import build_schedule
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


EIGHT_LAYERS = replace(
    GPT,
    name="gpt-deep",
    model=gpt("gpt-deep", layers=8, hidden=64, heads=4, vocabulary=256),
    sequences_per_step=2,
)

RECIPE = Optimizer(clip_norm=0.1, epsilon=1e-3)
"""Clips every step, and lets AdamW see the scale of gradients, so that a wrong one shows."""


def _batches(workload: Workload) -> list[torch.Tensor]:
    """Three optimizer steps, the first short, as the harness has them."""
    generator = torch.Generator().manual_seed(4)
    sequences = workload.sequences_per_step
    lengths = (64, workload.sequence_tokens, workload.sequence_tokens)
    return [
        torch.randint(0, 256, (sequences, length + 1), generator=generator) for length in lengths
    ]


def _weights(workload: Workload, swap: tuple[str, str] | None) -> dict[str, torch.Tensor]:
    weights = initial_weights(workload.model, workload.seed, torch.float32)
    if swap is not None:
        weights[swap[0]], weights[swap[1]] = weights[swap[1]], weights[swap[0]]
    return weights


Case = tuple[Workload, SppoSettings, tuple[str, str] | None]


Plans = dict[tuple[Workload, SppoSettings], Any]


def _plans_of(jobs: Iterable[tuple[Workload, SppoSettings]]) -> Plans:
    """Made once, as the harness does, for all ranks."""
    return {job: step_plans(ADAPTER, *job) for job in jobs}


def _train(rank: int, ranks: int, cases: list[Case], plans: Plans) -> list[list[StepResult]]:
    results = []
    for workload, settings, swap in cases:
        context = Context(
            rank=rank,
            ranks=ranks,
            device=torch.device("cpu"),
            dtype=torch.float32,
            plans=plans[workload, settings],
        )
        system = ADAPTER.prepare(workload, settings, _weights(workload, swap), context)
        results.append([system.step(batch) for batch in _batches(workload)])
    return results


def _reference(workload: Workload) -> list[StepResult]:
    context = Context(rank=0, ranks=1, device=torch.device("cpu"), dtype=torch.float32)
    adapter = reference.ADAPTER
    system = adapter.prepare(workload, adapter.settings_type(), _weights(workload, None), context)
    return [system.step(batch) for batch in _batches(workload)]


def _steps(results: list[StepResult]) -> list[StepRecord]:
    return [
        StepRecord(phase="measured", tokens=1, seconds=0.0, loss=r.loss, grad_norm=r.grad_norm)
        for r in results
    ]


def test_equal_work_over_gloo_and_a_broken_mapping_is_seen() -> None:
    swap = ("layers.1.attention.query.weight", "layers.1.attention.key.weight")
    workloads = [replace(workload, optimizer=RECIPE) for workload in (GPT, LLAMA)]
    cases: list[Case] = [
        (workloads[0], SppoSettings(virtual_stages=1, subsequences=4), None),
        (workloads[0], SppoSettings(virtual_stages=2, subsequences=5), None),
        (workloads[0], SppoSettings(subsequences=4, policy="full-offload"), None),
        (workloads[0], SppoSettings(subsequences=4, policy="lean"), None),
        (workloads[0], SppoSettings(subsequences=4, kv_offload=True), None),
        (workloads[0], SppoSettings(subsequences=5, msp=True), None),
        (workloads[1], SppoSettings(subsequences=4, msp=True, virtual_stages=1), None),
        (
            workloads[1].with_device_memory(10 * MIB),
            SppoSettings(subsequences=4, msp=True, kv_offload=True),
            None,
        ),
        (workloads[1], SppoSettings(subsequences=4, policy="full-recompute"), None),
        (workloads[1], SppoSettings(subsequences=3, cut="equal"), None),
        (replace(workloads[1], sequences_per_step=2), SppoSettings(subsequences=4), None),
        (workloads[0], SppoSettings(subsequences=4), swap),
    ]
    _assert_equal_work(cases, 2)


def _traffic(groups: RankGroups) -> dict[str, int]:
    """What one rank has sent and shared so far."""
    return {
        "messages": groups.transport.traffic.messages,
        "message_bytes": groups.transport.traffic.bytes,
        "shard_calls": groups.shards.traffic.messages,
        "shard_bytes": groups.shards.traffic.bytes,
        "ulysses_calls": groups.ulysses.traffic.messages,
        "ulysses_bytes": groups.ulysses.traffic.bytes,
        "context_calls": groups.context.traffic.messages,
        "context_bytes": groups.context.traffic.bytes,
        "replica_calls": groups.copies.traffic.messages,
        "replica_bytes": groups.copies.traffic.bytes,
    }


def _connect(rank: int, ranks: int, jobs: list[tuple[Workload, SppoSettings]]) -> None:
    """A token through every connection, as NCCL needs it: every send has its receive."""
    for job in jobs:
        plan = ADAPTER.plan(*job)
        transport = join_groups(plan).transport
        assert isinstance(transport, GroupTransport)
        connections = connections_of(build_schedule(plan))
        assert {connection.channel for connection in connections} == set(Channel)
        transport.exchange_tokens(connections, torch.device("cpu"))
        transport.exchange_tokens(
            connections, torch.device("cpu")
        )  # the second time there is nothing to do


def _account(
    rank: int, ranks: int, jobs: list[tuple[Workload, SppoSettings]], plans: Plans
) -> list[Any]:
    """One accounted step per job on this rank."""
    device = torch.device("cpu")
    results = []
    for workload, settings in jobs:
        accounting = Accounting(device)
        context = Context(
            rank=rank,
            ranks=ranks,
            device=device,
            dtype=torch.float32,
            plans=plans[workload, settings],
            label=accounting.label,
        )
        weights = initial_weights(workload.model, workload.seed, torch.float32)
        system = ADAPTER.prepare(workload, settings, weights, context)
        tokens = torch.randint(0, 256, (workload.sequences_per_step, workload.sequence_tokens + 1))
        system.step(tokens)  # optimizer state appears in the first step
        groups = system.trainer.groups
        before = _traffic(groups)
        for kind, tensors in system.tensors().items():
            accounting.adopt(kind, tensors)
        with accounting:
            system.step(tokens)
        accounting.close()
        moved = {name: count - before[name] for name, count in _traffic(groups).items()}
        results.append(
            {
                "activations": accounting.activation_peak_bytes,
                "kept": accounting.peak_by_kind["activations"],
                "total": accounting.peak_bytes,
                "by_kind": dict(accounting.at_peak_by_kind),
                "host": sum(
                    arena.peak_bytes for arena in system.trainer.engine.stage.buffers.arenas
                ),
                "offloaded": system.trainer.counters.offloaded_bytes,
                "kv_moved": system.trainer.counters.kv_moved_bytes,
                "fetched": system.trainer.counters.fetched_bytes,
                **moved,
            }
        )
    return results


def _assert_as_planned(jobs: list[tuple[Workload, SppoSettings]], ranks: int) -> None:
    """What every rank counts is what the plan and the simulator say."""
    plans = _plans_of(jobs)
    by_rank = run_ranks(_account, ranks, jobs, plans)
    for index, (workload, settings) in enumerate(jobs):
        plan = plans[workload, settings].whole
        simulation = simulate_plan(plan, load_hardware("cpu-2core"))
        for rank, results in enumerate(by_rank):
            counted = results[index]
            stage = coordinate_of(plan, rank).stage
            memory = plan.stages[stage].memory
            shared = shard_collectives(plan, stage)
            reduced = replica_collectives(plan, stage) + weight_collectives(plan, stage)
            exchanged = ulysses_collectives(plan, stage)
            gathered = context_collectives(plan, stage)
            where = f"{workload.name}, {settings}, rank {rank}: {counted}, {memory}"
            assert counted["activations"] == memory.activations_peak, where
            assert counted["kept"] == memory.kept_peak, where
            assert counted["kept"] == simulation.kept_peak_bytes[stage], where
            assert counted["host"] == memory.host, where
            assert counted["offloaded"] == counted["fetched"], where
            assert counted["kv_moved"] == stage_kv_copied_bytes(plan, stage), where
            assert counted["messages"] == simulation.messages[stage], where
            assert counted["message_bytes"] == simulation.message_bytes[stage], where
            assert counted["by_kind"]["weights"] == memory.weights, where
            assert counted["by_kind"]["gradients"] == memory.gradients, where
            assert counted["total"] <= memory.total, where
            assert (counted["shard_calls"], counted["shard_bytes"]) == (
                shared.calls,
                shared.bytes,
            ), f"{shared}, {where}"
            assert (counted["ulysses_calls"], counted["ulysses_bytes"]) == (
                exchanged.calls,
                exchanged.bytes,
            ), f"{exchanged}, {where}"
            assert (counted["context_calls"], counted["context_bytes"]) == (
                gathered.calls,
                gathered.bytes,
            ), f"{gathered}, {where}"
            assert (counted["replica_calls"], counted["replica_bytes"]) == (
                reduced.calls,
                reduced.bytes,
            ), f"{reduced}, {where}"


FURTHER = [pytest.param(start, marks=pytest.mark.soak) for start in (1, 2)]
thirds = pytest.mark.parametrize("start", [0, *FURTHER])
"""Every third job; the others are in `tox -e soak-cases`."""


@thirds
def test_two_ranks_of_a_stage_or_of_two_pipelines_count_what_is_planned(start: int) -> None:
    together = SppoSettings(sequence_parallel=2, subsequences=4)
    exchanging = replace(together, ulysses_parallel=2)
    gathering = replace(together, context_parallel=2)
    apart = SppoSettings(data_parallel=2, subsequences=3)
    jobs = [
        (GPT, together),
        (GPT, replace(together, policy="full-offload")),
        (LLAMA, replace(together, policy="lean")),
        (GPT, replace(together, policy="full-recompute")),
        (LLAMA, replace(together, kv_offload=True)),
        (replace(GPT, sequence_tokens=4096), replace(together, subsequences=1)),
        (replace(LLAMA, sequences_per_step=2), together),
        (LLAMA, replace(exchanging, policy="lean")),
        (GPT, replace(gathering, policy="full-recompute")),
        (GPT, replace(exchanging, weights="sharded", policy="full-offload")),
        (replace(LLAMA, sequences_per_step=2), replace(gathering, weights="sharded")),
        (replace(LLAMA, sequences_per_step=2), replace(apart, weights="sharded")),
        (replace(LLAMA, sequences_per_step=2), replace(gathering, policy="full-offload")),
        (replace(GPT, sequence_tokens=4096), replace(gathering, cut="equal")),
        (GPT, replace(exchanging, policy="full-recompute", kv_offload=True)),
        (replace(GPT, sequences_per_step=2), apart),
        (replace(LLAMA, sequences_per_step=4), replace(apart, policy="full-offload")),
    ]
    _assert_as_planned(jobs[start::3], 2)
    _assert_trained_alike(jobs[start + 1 :: 4], 2)


@thirds
def test_four_ranks_in_every_arrangement_count_what_is_planned(start: int) -> None:
    four = replace(CLUSTER, ranks_per_node=4)
    gpt_four, llama_four = replace(GPT, cluster=four), replace(LLAMA, cluster=four)
    wide = replace(LLAMA.model, kv_heads=4)
    exchanging = SppoSettings(sequence_parallel=2, ulysses_parallel=2, subsequences=4)
    jobs = [
        (gpt_four, SppoSettings(sequence_parallel=2, pipeline_parallel=2, subsequences=4)),
        (
            llama_four,
            SppoSettings(sequence_parallel=2, pipeline_parallel=2, subsequences=4, msp=True),
        ),
        (replace(llama_four, model=wide), SppoSettings(sequence_parallel=4, subsequences=3)),
        (
            replace(llama_four, model=wide),
            replace(exchanging, sequence_parallel=4, policy="lean"),
        ),
        (llama_four, replace(exchanging, pipeline_parallel=2, msp=True)),
        (llama_four, SppoSettings(sequence_parallel=4, subsequences=3, policy="lean")),
        (
            replace(llama_four, model=wide),
            replace(exchanging, sequence_parallel=4, context_parallel=2),
        ),
        (
            gpt_four,
            SppoSettings(
                sequence_parallel=2, context_parallel=2, pipeline_parallel=2, subsequences=4
            ),
        ),
        (
            gpt_four,
            replace(exchanging, pipeline_parallel=2, weights="sharded", kv_offload=True),
        ),
        (
            replace(gpt_four, sequences_per_step=2),
            replace(exchanging, data_parallel=2, subsequences=3),
        ),
        (
            replace(gpt_four, sequences_per_step=4),
            SppoSettings(data_parallel=2, pipeline_parallel=2, subsequences=3),
        ),
        (
            replace(llama_four, sequences_per_step=2),
            SppoSettings(data_parallel=2, sequence_parallel=2, subsequences=3),
        ),
    ]
    _assert_as_planned(jobs[start::3], 4)
    _assert_trained_alike(jobs[start + 1 :: 4], 4)


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_to_alls_in_pieces_count_what_is_planned(ranks: int) -> None:
    """Where K and V are hosted or gathered there is one subsequence; MSP slices have no pieces."""
    four = replace(CLUSTER, ranks_per_node=4)
    gpt_four, llama_four = replace(GPT, cluster=four), replace(LLAMA, cluster=four)
    pieces = SppoSettings(
        sequence_parallel=2, ulysses_parallel=2, subsequences=4, exchange_pieces=2
    )
    single = replace(pieces, subsequences=1)
    jobs = {
        2: [
            (GPT, replace(pieces, policy="full-offload")),
            (LLAMA, replace(pieces, policy="full-recompute", exchange_pieces=3)),
            (replace(GPT, sequence_tokens=4096), replace(single, weights="sharded")),
            (LLAMA, replace(single, kv_offload=True, policy="lean")),
        ],
        4: [
            (gpt_four, replace(single, sequence_parallel=4, context_parallel=2)),
            (llama_four, replace(pieces, pipeline_parallel=2, msp=True)),
            (gpt_four, replace(pieces, sequence_parallel=4, policy="lean")),
        ],
    }
    _assert_as_planned(jobs[ranks], ranks)
    _assert_trained_alike(jobs[ranks][:2], ranks)


def _assert_trained_alike(jobs: list[tuple[Workload, SppoSettings]], ranks: int) -> None:
    """Equal work of some arrangements: `tests/numerics` has many more, in threads."""
    cases: list[Case] = [(replace(work, optimizer=RECIPE), how, None) for work, how in jobs]
    _assert_equal_work(cases, ranks)


def _assert_equal_work(cases: list[Case], ranks: int) -> None:
    """Losses and norms are those of one process, or differ where a case swaps two weights."""
    plans = _plans_of((workload, settings) for workload, settings, _ in cases)
    by_rank = run_ranks(_train, ranks, cases, plans)
    assert all(results == by_rank[0] for results in by_rank), "ranks must report the same"
    for (workload, settings, broken), results in zip(cases, by_rank[0], strict=True):
        deviations = equal_work(
            {"SPPO": _steps(results)},
            _steps(_reference(workload)),
            tolerance=TOLERANCE["float32"],
        )
        assert ("SPPO" in deviations) == (broken is not None), (
            f"{workload.name}, {settings}: {deviations}"
        )


@thirds
def test_predicted_equals_counted(start: int) -> None:
    hosted_slices = SppoSettings(kv_offload=True, msp=True)
    jobs = [
        (GPT, SppoSettings(subsequences=4)),
        (GPT, SppoSettings(subsequences=5, policy="full-offload")),
        (replace(GPT, sequence_tokens=4096), SppoSettings(virtual_stages=2, subsequences=8)),
        (GPT.with_device_memory(10 * MIB), SppoSettings(subsequences=6)),
        (LLAMA, SppoSettings(subsequences=3, policy="full-offload", cut="equal")),
        (GPT, SppoSettings(subsequences=4, policy="lean")),
        (LLAMA, SppoSettings(subsequences=4, policy="lean")),
        (GPT, SppoSettings(subsequences=3, policy="full-recompute")),
        (LLAMA, SppoSettings(subsequences=3, policy="paper")),
        (GPT.with_device_memory(9 * MIB), SppoSettings(solver="exact", subsequences=6)),
        (replace(LLAMA, sequences_per_step=3), SppoSettings(subsequences=4)),
        (replace(GPT, sequences_per_step=3), SppoSettings(subsequences=4, virtual_stages=1)),
        (
            replace(LLAMA, sequences_per_step=2),
            SppoSettings(subsequences=4, virtual_stages=1, policy="full-offload"),
        ),
        (GPT, SppoSettings(subsequences=5, kv_offload=True)),
        (LLAMA, SppoSettings(subsequences=4, kv_offload=True, policy="full-recompute")),
        (replace(LLAMA, sequences_per_step=2), SppoSettings(kv_offload=True, subsequences=3)),
        (GPT, SppoSettings(subsequences=4, msp=True)),
        (LLAMA, SppoSettings(subsequences=4, msp=True, virtual_stages=1, policy="full-offload")),
        (GPT.with_device_memory(14 * MIB), SppoSettings(subsequences=6, msp=True)),
        (replace(LLAMA, sequences_per_step=2), SppoSettings(subsequences=4, msp=True)),
        (GPT, SppoSettings(subsequences=3, msp=True, policy="full-recompute")),
        (
            GPT.with_device_memory(16 * MIB),
            replace(hosted_slices, subsequences=4, virtual_stages=1, policy="full-recompute"),
        ),
        (
            LLAMA.with_device_memory(10 * MIB),
            replace(hosted_slices, subsequences=3, virtual_stages=1, policy="full-offload"),
        ),
        (
            replace(LLAMA, sequence_tokens=4096).with_device_memory(24 * MIB),
            replace(hosted_slices, subsequences=4, virtual_stages=2),
        ),
    ]
    _assert_as_planned(jobs[start::3], 2)
    for job in jobs[-3:]:
        hosted = ADAPTER.plan(*job)
        assert hosted.kv_block_tokens < hosted.starts_tokens[-1], "a prefix has several blocks"
        assert not all(split.fills for split in hosted.msp_splits)
    limited = ADAPTER.plan(*jobs[3])
    decisions = [(*part.offload_units, *part.recompute_units) for part in limited.parts]
    assert any(any(row) for row in decisions), (
        "the limited case must offload or recompute something"
    )


def test_four_ranks_with_msp_count_what_is_simulated() -> None:
    four = replace(CLUSTER, ranks_per_node=4)
    stages = {"pipeline_parallel": 4, "virtual_stages": 1}
    jobs = [
        (replace(GPT, cluster=four), SppoSettings(subsequences=6, **stages, msp=True)),
        (replace(LLAMA, cluster=four), SppoSettings(subsequences=5, **stages, msp=True)),
        (
            replace(LLAMA, cluster=four).with_device_memory(8 * MIB),
            SppoSettings(
                subsequences=5, **stages, msp=True, kv_offload=True, policy="full-recompute"
            ),
        ),
        (
            replace(EIGHT_LAYERS, cluster=four).with_device_memory(24 * MIB),
            SppoSettings(
                pipeline_parallel=4, virtual_stages=2, subsequences=6, msp=True, kv_offload=True
            ),
        ),
    ]
    for workload, settings in jobs:
        splits = ADAPTER.plan(workload, settings).msp_splits
        assert len(splits) >= 3
    drained = ADAPTER.plan(*jobs[2]).msp_splits
    assert not all(split.fills for split in drained), "helpers have hosted K and V of a prefix"
    run_ranks(_connect, 4, jobs)
    _assert_as_planned(jobs, 4)
    cases: list[Case] = [(*job, None) for job in jobs]
    _assert_equal_work(cases, 4)
