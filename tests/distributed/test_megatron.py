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
from tests.distributed.megatron_faults import (
    error_without_the_layernorm_patch,
    held_after_deallocation,
    messages_in_batches,
    without_patch,
)
from tests.distributed.training_cases import steps
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
GPT = gpt("gpt-small", layers=4, hidden=64, heads=4, vocabulary=128)
EIGHT_LAYERS = replace(GPT, name="gpt-8", layers=8)
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
VP = MegatronSettings(pipeline_parallel=2, virtual_pipeline=2)
NORMS: dict[str, Any] = {"recompute": "modules", "recompute_modules": ("layernorm",)}
MLP_AND_NORMS: dict[str, Any] = {**NORMS, "recompute_modules": ("mlp", "layernorm")}
SAVED: dict[str, Any] = {"recompute": "save-attention"}
LAYOUTS = {
    "gpt": (
        PP,
        replace(PP, recompute="modules", recompute_modules=("core_attn", "mlp")),
        replace(TP_SP, recompute="block", recompute_layers=2),
        replace(TP, recompute="full"),
        replace(CP, recompute="full", distributed_optimizer=True),
        replace(TP_SP, **MLP_AND_NORMS),
        replace(CP, **SAVED, recompute_layers=3),
    ),
    "gpt, four sequences a step": (
        PP,
        replace(DP, distributed_optimizer=True),
        VP,
        replace(VP, **MLP_AND_NORMS),
    ),
    "gpt, five sequences a step": (replace(VP, recompute="full"),),
    "llama": (
        replace(CP, **NORMS),
        replace(TP_SP, **SAVED),
        replace(PP, recompute="full"),
    ),
    "llama, fewer KV heads than TP": (TP, replace(TP_SP, **SAVED)),
}
FURTHER_LAYOUTS = {
    "gpt": (
        replace(PP, recompute="full"),
        TP_SP,
        replace(TP_SP, recompute="modules", recompute_modules=("mlp",)),
        CP,
        replace(TP_SP, **NORMS),
        replace(CP, **MLP_AND_NORMS),
        replace(TP_SP, **SAVED),
    ),
    "gpt, four sequences a step": (CP, replace(VP, recompute="full"), replace(VP, **SAVED)),
    "gpt, five sequences a step": (VP,),
    "llama": (
        replace(CP, **SAVED),
        TP_SP,
        replace(TP_SP, recompute="modules", recompute_modules=("mlp",)),
        CP,
    ),
    "llama, fewer KV heads than TP": (TP_SP, replace(TP_SP, recompute="full")),
}
"""Cases of `tox -e soak-cases`."""


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
    "gpt, five sequences a step": workload_of(GPT, 5),
    "llama": workload_of(LLAMA, 1),
    "llama, fewer KV heads than TP": workload_of(ONE_KV_HEAD, 1),
    "eight layers": workload_of(EIGHT_LAYERS, 4),
    "eight layers, six sequences a step": workload_of(EIGHT_LAYERS, 6),
}


def weights_of(workload: Workload) -> dict[str, torch.Tensor]:
    return initial_weights(workload.model, workload.seed, torch.float32)


def context_of(rank: int, ranks: int) -> Context:
    return Context(rank=rank, ranks=ranks, device=torch.device("cpu"), dtype=torch.float32)


def train(
    workload: Workload, settings: MegatronSettings, context: Context
) -> tuple[list[StepResult], dict[str, int]]:
    """Results of the steps, and how many numbers this rank holds of each kind."""
    saved = settings.recompute == "save-attention"
    adapter = registry.load("megatron-ours" if saved else "megatron")
    system = adapter.prepare(workload, settings, weights_of(workload), context)
    results = [system.step(tokens) for tokens in steps(workload)]
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


def train_without_patches(rank: int, context: Context) -> dict[str, Any]:
    """The first systems of a process: no patch is ever undone."""
    workload = WORKLOADS["gpt, four sequences a step"]
    launched: dict[str, Any] = {}
    with without_patch("two-stage-batches"):
        launched["no layernorm patch"] = error_without_the_layernorm_patch(
            lambda: train(WORKLOADS["gpt"], replace(TP_SP, **NORMS), context)
        )
        with messages_in_batches():
            launched["no batch patch"] = train(workload, VP, context)[0]
    with messages_in_batches():
        launched["batches"] = train(workload, VP, context)[0]
    launched["held"] = held_after_deallocation(rank)
    return launched


Layouts = dict[str, tuple[MegatronSettings, ...]]


def train_layouts(rank: int, ranks: int, by_workload: Layouts) -> dict[str, Any]:
    context = context_of(rank, ranks)
    return {
        name: [train(WORKLOADS[name], settings, context) for settings in layouts]
        for name, layouts in by_workload.items()
    }


def on_rank(rank: int, ranks: int) -> dict[str, Any]:
    context = context_of(rank, ranks)
    launched = train_without_patches(rank, context)
    launched |= train_layouts(rank, ranks, LAYOUTS)
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
    return [system.step(tokens) for tokens in steps(workload)]


def is_exact(results: list[StepResult], wanted: list[StepResult]) -> bool:
    pairs = [
        pair
        for got, want in zip(results, wanted, strict=True)
        for pair in ((got.loss, want.loss), (got.grad_norm, want.grad_norm))
    ]
    return all(got == pytest.approx(want, rel=TOLERANCE) for got, want in pairs)


def check_exact(
    layouts: tuple[MegatronSettings, ...], by_rank: list[dict[str, Any]], name: str
) -> None:
    wanted = expected(name)
    for number, settings in enumerate(layouts):
        first, *others = (rank[name][number][0] for rank in by_rank)
        assert others == [first] * len(others), f"ranks disagree: {settings}"
        assert is_exact(first, wanted), f"{settings}: {first} is not {wanted}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_matches_the_reference(launched: list[dict[str, Any]], name: str) -> None:
    check_exact(LAYOUTS[name], launched, name)


@pytest.mark.soak
def test_further_layouts_match_the_reference() -> None:
    launched = run_ranks(train_layouts, 2, FURTHER_LAYOUTS)
    for name, layouts in FURTHER_LAYOUTS.items():
        check_exact(layouts, launched, name)


def test_the_layernorm_patch_is_needed(launched: list[dict[str, Any]]) -> None:
    """With it: the layouts above that recompute norms."""
    assert all("FP8GlobalStateManager" in rank["no layernorm patch"] for rank in launched)


def test_two_stages_confuse_batched_messages_without_the_patch(
    launched: list[dict[str, Any]],
) -> None:
    wanted = expected("gpt, four sequences a step")
    assert is_exact(launched[0]["batches"], wanted)
    assert not is_exact(launched[0]["no batch patch"], wanted)


def test_a_send_reads_what_megatron_has_deallocated_only_with_the_patch(
    launched: list[dict[str, Any]],
) -> None:
    assert [rank["held"] for rank in launched] == [(1, 100, True)] * 2


def test_two_exchanged_weights_are_noticed(launched: list[dict[str, Any]]) -> None:
    results = launched[0]["exchanged"]
    wanted = expected("gpt")
    assert any(
        abs(got.loss / want.loss - 1) > TOLERANCE for got, want in zip(results, wanted, strict=True)
    )


def test_a_chunk_of_every_stage_holds_its_layers_once(launched: list[dict[str, Any]]) -> None:
    name = "gpt, four sequences a step"
    interleaved, whole = LAYOUTS[name].index(VP), LAYOUTS[name].index(PP)
    for rank in launched:
        sizes = [rank[name][number][1]["weights"] for number in (interleaved, whole)]
        assert sizes[0] == sizes[1]


def test_the_stages_together_hold_the_model_once(launched: list[dict[str, Any]]) -> None:
    pipeline = LAYOUTS["gpt"].index(PP)
    sizes = [rank["gpt"][pipeline][1] for rank in launched]
    assert sum(size["weights"] for size in sizes) == parameter_count(GPT)
    assert sum(size["gradients"] for size in sizes) >= parameter_count(GPT)
    assert sum(size["optimizer"] for size in sizes) >= 2 * parameter_count(GPT)
