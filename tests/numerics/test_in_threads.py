"""`sppo.run_in_threads`: the trainer of every rank, as threads, against plain torch."""

from __future__ import annotations

import pytest
import torch

from baselines import reference
from baselines.protocol import Context
from benchmarks.worker.weights import initial_weights
from sppo import (
    Cluster,
    Plan,
    SolverOptions,
    Workload,
    load_hardware,
    run_in_threads,
    simulate_plan,
    solve,
)
from sppo.config.models import Model, gpt, llama
from sppo.config.workload import Optimizer

PROFILE = load_hardware("cpu-2core")
RECIPE = Optimizer(clip_norm=0.1, epsilon=1e-3)
"""Clips every step, and lets AdamW see the scale of gradients, so that a wrong one shows."""

GPT = gpt("gpt", layers=8, hidden=32, heads=4, vocabulary=64)
LLAMA = llama("llama", layers=4, hidden=32, heads=4, kv_heads=4, ffn=64, vocabulary=64)


def _workload(model: Model, ranks: int, sequences: int = 1) -> Workload:
    return Workload(
        name="threads",
        model=model,
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=ranks),
        sequence_tokens=192,
        sequences_per_step=sequences,
        optimizer=RECIPE,
    )


def _batches(plan: Plan, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    shape = (steps, plan.sequences_per_step, plan.sequence_tokens + 1)
    return torch.randint(0, plan.model.vocabulary, shape, generator=generator)


CASES = {
    "PP 4": (_workload(GPT, 4), SolverOptions(pipeline_parallel=4, subsequences=4)),
    "PP 4, all offloaded": (
        _workload(GPT, 4),
        SolverOptions(pipeline_parallel=4, subsequences=4, policy="full-offload"),
    ),
    "PP 4, interleaved, MSP": (
        _workload(GPT, 4),
        SolverOptions(pipeline_parallel=4, subsequences=6, virtual_stages=2, msp=True),
    ),
    "PP 8, MSP": (
        _workload(GPT, 8),
        SolverOptions(pipeline_parallel=8, subsequences=8, msp=True),
    ),
    "SP 2 x PP 2 x DP 2": (
        _workload(LLAMA, 8, sequences=2),
        SolverOptions(
            sequence_parallel=2, pipeline_parallel=2, data_parallel=2, subsequences=3, policy="lean"
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_threads_train_like_plain_torch_and_count_what_is_planned(name: str) -> None:
    workload, options = CASES[name]
    plan = solve(workload, PROFILE, options)
    weights = initial_weights(workload.model, workload.seed, torch.float32)
    batches = _batches(plan, 3)
    training = run_in_threads(plan, weights, batches, optimizer=RECIPE)

    context = Context(rank=0, ranks=1, device=torch.device("cpu"), dtype=torch.float32)
    plain = reference.ADAPTER.prepare(workload, reference.ReferenceSettings(), weights, context)
    expected = [plain.step(batch) for batch in batches]
    assert training.losses == pytest.approx([step.loss for step in expected], rel=1e-5)
    assert training.gradient_norms == pytest.approx([step.grad_norm for step in expected], rel=1e-5)

    simulation = simulate_plan(plan, PROFILE)
    assert len(training.ranks) == plan.ranks
    for rank in training.ranks:
        memory = plan.stages[rank.stage].memory
        assert rank.kept_peak_bytes == memory.kept_peak, rank
        assert rank.kept_peak_bytes == simulation.kept_peak_bytes[rank.stage], rank
        assert rank.host_peak_bytes == memory.host, rank
        assert rank.offloaded_bytes == rank.fetched_bytes, rank
        assert rank.messages == simulation.messages[rank.stage], rank
        assert rank.message_bytes == simulation.message_bytes[rank.stage], rank


def test_a_batch_of_another_length_is_refused() -> None:
    workload, options = CASES["PP 4"]
    plan = solve(workload, PROFILE, options)
    weights = initial_weights(workload.model, workload.seed, torch.float32)
    with pytest.raises(ValueError, match=r"batches of \(1, 193\), not \(1, 65\)"):
        run_in_threads(plan, weights, [torch.zeros(1, 65, dtype=torch.int64)])
