"""Megatron-Core in two real ranks against the reference: same losses, same gradient norms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines import registry
from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Context, StepResult
from baselines.reference import ReferenceSettings
from benchmarks.worker.weights import initial_weights
from sppo.config.models import Model, gpt, llama
from sppo.config.workload import Cluster, Workload
from sppo.plan.weights import parameter_count
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
GPT = gpt("gpt-small", layers=4, hidden=64, heads=4, vocabulary=128)
LLAMA = llama(
    "llama-small",
    layers=4,
    hidden=64,
    heads=4,
    kv_heads=2,
    ffn=176,
    vocabulary=128,
    rope_theta=10_000.0,
)
ONE_KV_HEAD = replace(LLAMA, name="llama-one-kv-head", kv_heads=1)
TP = MegatronSettings(tensor_parallel=2)
TP_SP = replace(TP, sequence_parallel=True)
PP = MegatronSettings(pipeline_parallel=2)
CP = MegatronSettings(context_parallel=2)
DP = MegatronSettings()
LAYOUTS = {
    "gpt": (
        replace(PP, recompute="full"),
        PP,
        replace(PP, recompute="modules", recompute_modules=("core_attn", "mlp")),
        TP_SP,
        replace(TP_SP, recompute="modules", recompute_modules=("mlp",)),
        replace(TP_SP, recompute="block", recompute_layers=2),
        replace(TP, recompute="full"),
        CP,
        replace(CP, recompute="full", distributed_optimizer=True),
    ),
    "gpt, four sequences a step": (PP, CP, replace(DP, distributed_optimizer=True)),
    "llama": (
        TP_SP,
        replace(TP_SP, recompute="modules", recompute_modules=("mlp",)),
        replace(PP, recompute="full"),
        CP,
    ),
    "llama, fewer KV heads than TP": (TP, TP_SP, replace(TP_SP, recompute="full")),
}


def workload_of(model: Model, sequences: int) -> Workload:
    return Workload(
        name="test",
        model=model,
        cluster=Cluster(hardware="test", device="cpu", nodes=1, ranks_per_node=2),
        sequence_tokens=256,
        sequences_per_step=sequences,
    )


WORKLOADS = {
    "gpt": workload_of(GPT, 1),
    "gpt, four sequences a step": workload_of(GPT, 4),
    "llama": workload_of(LLAMA, 1),
    "llama, fewer KV heads than TP": workload_of(ONE_KV_HEAD, 1),
}


def batches(workload: Workload) -> list[torch.Tensor]:
    """Three steps; the first is the short throw-away one."""
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randint(
            workload.model.vocabulary,
            (workload.sequences_per_step, tokens + 1),
            generator=generator,
        )
        for tokens in (64, workload.sequence_tokens, workload.sequence_tokens)
    ]


def weights_of(workload: Workload) -> dict[str, torch.Tensor]:
    return initial_weights(workload.model, workload.seed, torch.float32)


def context_of(rank: int, ranks: int) -> Context:
    return Context(rank=rank, ranks=ranks, device=torch.device("cpu"), dtype=torch.float32)


def train(
    workload: Workload, settings: MegatronSettings, context: Context
) -> tuple[list[StepResult], dict[str, int]]:
    """Results of the steps, and how many numbers this rank holds of each kind."""
    adapter = registry.load("megatron")
    system = adapter.prepare(workload, settings, weights_of(workload), context)
    results = [system.step(tokens) for tokens in batches(workload)]
    sizes = {
        kind: sum(tensor.numel() for tensor in tensors)
        for kind, tensors in system.tensors().items()
    }
    system.close()
    return results, sizes


def train_with_exchanged_weights(context: Context) -> list[StepResult]:
    """The query and key projections of one layer change places in the mapping."""
    from baselines.megatron import model as megatron_model
    from baselines.megatron import weights as megatron_weights

    shard_of = megatron_weights.shard_of

    def exchanged(name: str, weights: Any, *rest: Any) -> torch.Tensor:
        query, key = (f"layers.2.attention.{part}.weight" for part in ("query", "key"))
        return shard_of(name, {**weights, query: weights[key], key: weights[query]}, *rest)

    assert megatron_model.load_weights is megatron_weights.load_weights
    megatron_weights.shard_of = exchanged
    try:
        return train(WORKLOADS["gpt"], TP_SP, context)[0]
    finally:
        megatron_weights.shard_of = shard_of


def on_rank(rank: int, ranks: int) -> dict[str, Any]:
    context = context_of(rank, ranks)
    launched: dict[str, Any] = {
        name: [train(WORKLOADS[name], settings, context) for settings in layouts]
        for name, layouts in LAYOUTS.items()
    }
    launched["exchanged"] = train_with_exchanged_weights(context)
    return launched


@pytest.fixture(scope="module")
def launched() -> list[dict[str, Any]]:
    """Everything in one launch: importing the library costs more than training here."""
    return run_ranks(on_rank, 2)


def expected(name: str) -> list[StepResult]:
    workload = WORKLOADS[name]
    system = registry.load("reference").prepare(
        workload, ReferenceSettings(), weights_of(workload), context_of(0, 1)
    )
    return [system.step(tokens) for tokens in batches(workload)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_matches_the_reference(launched: list[dict[str, Any]], name: str) -> None:
    wanted = expected(name)
    for settings, first, second in zip(
        LAYOUTS[name], launched[0][name], launched[1][name], strict=True
    ):
        assert first[0] == second[0], f"ranks disagree: {settings}"
        for got, want in zip(first[0], wanted, strict=True):
            assert got.loss == pytest.approx(want.loss, rel=TOLERANCE), settings
            assert got.grad_norm == pytest.approx(want.grad_norm, rel=TOLERANCE), settings


def test_two_exchanged_weights_are_noticed(launched: list[dict[str, Any]]) -> None:
    results = launched[0]["exchanged"]
    wanted = expected("gpt")
    assert any(
        abs(got.loss / want.loss - 1) > TOLERANCE for got, want in zip(results, wanted, strict=True)
    )


def test_the_stages_together_hold_the_model_once(launched: list[dict[str, Any]]) -> None:
    pipeline = LAYOUTS["gpt"].index(PP)
    sizes = [rank["gpt"][pipeline][1] for rank in launched]
    assert sum(size["weights"] for size in sizes) == parameter_count(GPT)
    assert sum(size["gradients"] for size in sizes) >= parameter_count(GPT)
    assert sum(size["optimizer"] for size in sizes) >= 2 * parameter_count(GPT)
