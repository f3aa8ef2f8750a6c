"""Kernels that run once before a step leave the step as it was, and have every shape of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.sppo import ADAPTER, SppoSettings
from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads, run_together
from sppo.comm.mesh import RankGroups
from sppo.config.models import gpt
from sppo.config.workload import Cluster, Workload
from sppo.engine.context import EngineContext
from sppo.engine.part import Part
from sppo.engine.trainer import Trainer
from sppo.plan.plan import Plan, StepPlans

CPU = torch.device("cpu")
WORKLOAD = Workload(
    name="four-ranks",
    model=gpt("gpt-small", layers=4, hidden=64, heads=4, vocabulary=128),
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=4),
    sequence_tokens=512,
    dtype="float32",
)
SETTINGS = {
    "interleaved": SppoSettings(pipeline_parallel=4, subsequences=4, policy="full-offload"),
    "MSP": SppoSettings(pipeline_parallel=4, subsequences=5, msp=True),
    "recomputed": SppoSettings(
        pipeline_parallel=2, sequence_parallel=2, subsequences=4, policy="lean"
    ),
    "all-to-alls": SppoSettings(
        pipeline_parallel=2, sequence_parallel=2, ulysses_parallel=2, subsequences=4
    ),
    "hosted K and V": SppoSettings(pipeline_parallel=4, subsequences=4, kv_offload=True),
    "one subsequence, hosted": SppoSettings(pipeline_parallel=2, subsequences=1, kv_offload=True),
    "one subsequence, MSP": SppoSettings(
        pipeline_parallel=2, virtual_stages=2, subsequences=1, msp=True
    ),
}


def trainers_of(plan: Plan) -> tuple[list[Trainer], list[RankGroups]]:
    weights = initial_weights(WORKLOAD.model, 3, torch.float32)
    context = EngineContext(device=CPU, dtype=torch.float32)
    groups = connect_threads(plan)
    plans = StepPlans(whole=plan, short=plan)
    return [Trainer(WORKLOAD, plans, weights, context, each) for each in groups], groups


def steps(plan: Plan, *, warm: bool) -> list[tuple[float, float]]:
    trainers, groups = trainers_of(plan)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 128, (1, 513), generator=generator)

    def train(rank: int) -> list[tuple[float, float]]:
        if warm:
            trainers[rank].engine.stage.warm_kernels()
        return [trainers[rank].step(tokens) for _ in range(2)]

    return run_together(groups, train)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_after_them_is_the_same_step(name: str) -> None:
    plan = ADAPTER.plan(WORKLOAD, SETTINGS[name])
    assert steps(plan, warm=True) == steps(plan, warm=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_count_of_tokens_runs_forward_and_backward(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ADAPTER.plan(WORKLOAD, SETTINGS[name])
    trainers, groups = trainers_of(plan)
    ran: list[tuple[str, int, int]] = []
    forward, backward = Part.forward, Part.backward

    def note(direction: str, part: Part, subsequence: int) -> None:
        span = part.spans[subsequence]
        ran.append((direction, part.index, span.stop - span.start))

    def noted_forward(part: Part, sequence: int, subsequence: int, *rest: Any) -> torch.Tensor:
        note("forward", part, subsequence)
        return forward(part, sequence, subsequence, *rest)

    def noted_backward(
        part: Part, sequence: int, subsequence: int, *rest: Any
    ) -> torch.Tensor | None:
        note("backward", part, subsequence)
        return backward(part, sequence, subsequence, *rest)

    monkeypatch.setattr(Part, "forward", noted_forward)
    monkeypatch.setattr(Part, "backward", noted_backward)
    run_together(groups, lambda rank: trainers[rank].engine.stage.warm_kernels())
    expected = {
        (direction, part, tokens)
        for direction in ("forward", "backward")
        for part in range(len(plan.parts))
        for row in plan.rank_tokens(part % plan.pipeline_parallel)
        for tokens in row
        if tokens
    }
    assert set(ran) == expected
