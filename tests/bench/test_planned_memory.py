"""A stage's plan beside its emulated step: the peak at most 2 % above, all other numbers exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baselines.protocol import Role
from baselines.sppo import ADAPTER, SppoSettings
from benchmarks.emulation import processes
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.forked.preloaded import PreloadedRanks
from benchmarks.emulation.predicted_vs_counted import planned_beside_counted
from sppo.comm.mesh import MeshCoordinate, rank_of
from sppo.config.models import gpt
from sppo.config.sizes import GIB
from sppo.config.workload import Cluster, Workload

pytestmark = pytest.mark.slow

WORKLOAD = Workload(
    name="planned-memory",
    model=gpt("gpt-narrow", layers=8, hidden=1024, heads=8, vocabulary=8192),
    cluster=Cluster(hardware="a100-80g", device="cuda", nodes=4, ranks_per_node=8),
    sequence_tokens=64 * 1024,
    dtype="bfloat16",
).with_device_memory(None)
GRID = SppoSettings(sequence_parallel=8, pipeline_parallel=4, virtual_stages=2, subsequences=6)
UNDIVIDED = replace(GRID, subsequences=1, ulysses_parallel=4, msp=False)
CASES: dict[str, tuple[Workload, SppoSettings, int]] = {
    "lends, first stage": (WORKLOAD, replace(GRID, msp=True), 0),
    "lends, last stage with the head": (WORKLOAD, replace(GRID, msp=True), 3),
    "everything made again, with the head": (WORKLOAD, replace(GRID, policy="lean", msp=False), 3),
    "everything travels": (WORKLOAD, replace(GRID, policy="full-offload", msp=False), 1),
    "hosted K and V": (WORKLOAD, replace(GRID, policy="lean", kv_offload=True), 0),
    "four sequences, mixed": (
        replace(WORKLOAD, sequences_per_step=4),
        replace(GRID, virtual_stages=1, subsequences=4),
        0,
    ),
    "two replicas, mixed, hosted K and V": (
        replace(WORKLOAD, sequences_per_step=4),
        SppoSettings(
            sequence_parallel=8,
            pipeline_parallel=2,
            data_parallel=2,
            virtual_stages=1,
            subsequences=3,
            policy="full-offload",
            kv_offload=True,
        ),
        1,
    ),
    "under a limit": (WORKLOAD.with_device_memory(GIB // 2), GRID, 0),
    "one subsequence, norms and MLP made again, with the head": (
        WORKLOAD.with_device_memory(3 * GIB // 4),
        replace(UNDIVIDED, kv_offload=False),
        3,
    ),
    "one subsequence, hosted K and V": (WORKLOAD, replace(UNDIVIDED, kv_offload=True), 3),
    "all-to-alls, the first stage": (WORKLOAD, replace(GRID, ulysses_parallel=8, msp=False), 0),
    "TP and all-to-alls, everything made again, with the head": (
        WORKLOAD,
        replace(GRID, ulysses_parallel=4, policy="lean", msp=False),
        3,
    ),
}


@pytest.fixture(scope="module")
def ranks() -> Iterator[PreloadedRanks]:
    with PreloadedRanks("sppo", servers=1) as started:
        yield started


FURTHER = (
    "lends, first stage",
    "everything made again, with the head",
    "two replicas, mixed, hosted K and V",
    "one subsequence, norms and MLP made again, with the head",
    "all-to-alls, the first stage",
)
"""Cases of `tox -e soak-cases`."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.soak] if name in FURTHER else []) for name in CASES],
)
def test_what_is_planned_is_what_is_emulated(
    name: str, ranks: PreloadedRanks, tmp_path: Path
) -> None:
    workload, settings, stage = CASES[name]
    plan = ADAPTER.plan(workload, settings)
    assert bool(plan.msp_splits) or not settings.msp
    assert bool(plan.kv_block_tokens) == bool(settings.kv_offload)
    assert (plan.kv_sets == 2) == ("mixed" in name)
    rank = rank_of(plan, MeshCoordinate(replica=0, stage=stage, shard=0))
    job = processes.make_job(workload, ADAPTER, settings, tmp_path)
    roles = [Role(name=f"stage {stage}", rank=rank, ranks=8)]
    emulator = Emulator(parent=tmp_path, time_limit_seconds=250.0, run_rank=ranks.emulate_rank)
    (report,) = emulator.run(job, roles)
    assert report.counts is not None, report.reason
    peak, *others = planned_beside_counted(plan, [report])
    assert peak.quantity == "peak_device_bytes"
    assert peak.counted <= peak.planned <= 1.02 * peak.counted, plan.stages[stage].memory
    for one in others:
        assert one.counted == one.planned, one
