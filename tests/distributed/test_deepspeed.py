"""DeepSpeed does the work of the reference: same losses, same norms, whatever the settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch.utils.checkpoint import noop_context_fn

from baselines.deepspeed.checkpointing import hosted_by_deepspeed, region
from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.deepspeed.system import partitions_first
from baselines.protocol import StepResult
from sppo.config.models import llama
from tests.distributed.training_cases import (
    LLAMA,
    ONE_KV_HEAD,
    RECIPE,
    Case,
    cases_of,
    differences,
    further,
    train,
    train_all,
    train_reference,
)
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

case_of = partial(Case, system="deepspeed")
hosted_case_of = partial(Case, system="deepspeed-ours")

UNEVEN = llama(
    "llama-3kv", layers=4, hidden=96, heads=6, kv_heads=3, ffn=176, vocabulary=128, rope_theta=1e4
)


def settings(zero_stage: int, blocks: bool = False, **others: object) -> DeepSpeedSettings:
    values = {"sequence_parallel": 2, "checkpointing": "blocks" if blocks else "none"} | others
    return DeepSpeedSettings(zero_stage=zero_stage, **values)


def saving(zero_stage: int, **others: object) -> DeepSpeedSettings:
    """Attention saved, the rest recomputed."""
    return settings(zero_stage, checkpointing="save-attention", **others)


EXACT = (
    case_of(settings=settings(0)),
    case_of(settings=settings(1, True, checkpointed_layers=2), model=ONE_KV_HEAD),
    case_of(settings=settings(3), model=UNEVEN),
    case_of(settings=settings(0, tiled_mlp=4, tiled_loss=True)),
    case_of(settings=settings(3, True, tiled_mlp=4, tiled_loss=True)),
    # Two sequences: accumulated by one Ulysses group, or one for each of two replicas.
    case_of(settings=settings(3, tiled_loss=True), sequences=2),
    case_of(settings=settings(2, sequence_parallel=1), sequences=4, model=LLAMA),
    *further(
        case_of(settings=settings(2), model=LLAMA),
        case_of(settings=settings(0), sequences=2),
        case_of(settings=settings(3, sequence_parallel=1), sequences=2),
        *(case_of(settings=settings(stage, True)) for stage in range(4)),
        *(case_of(settings=settings(stage)) for stage in (1, 2, 3)),
        *(case_of(settings=settings(stage, stage % 2 == 1), model=LLAMA) for stage in (0, 1, 3)),
        case_of(settings=settings(1, True), model=UNEVEN),
        case_of(settings=settings(1, True, tiled_mlp=3, tiled_loss=True), model=LLAMA),
        *(case_of(settings=settings(stage, tiled_loss=True), sequences=2) for stage in (1, 2)),
        *(case_of(settings=settings(stage, sequence_parallel=1), sequences=2) for stage in (0, 1)),
    ),
)
SELECTIVE = (
    case_of(settings=saving(0)),
    case_of(settings=saving(3, checkpointed_layers=2), model=LLAMA),
    case_of(settings=settings(1, checkpointing="split", checkpointed_layers=2, tiled_loss=True)),
    # Tiles, fewer KV heads, accumulation.
    case_of(settings=saving(1, tiled_loss=True), model=ONE_KV_HEAD),
    case_of(settings=saving(2, tiled_mlp=4, overlap_comm=True)),
    case_of(settings=settings(3, checkpointing="split", tiled_loss=True), sequences=2, model=LLAMA),
    case_of(settings=settings(3, overlap_comm=False)),
    *further(
        *(case_of(settings=saving(stage)) for stage in (1, 2, 3)),
        *(case_of(settings=settings(stage, checkpointing="split")) for stage in range(4)),
        case_of(settings=saving(0, checkpointed_layers=2), model=LLAMA),
        case_of(settings=saving(3, tiled_loss=True, tiled_mlp=4), sequences=2),
        # A tiled loss at ZeRO-0 and 2.
        case_of(settings=settings(0, True, tiled_loss=True)),
        case_of(settings=settings(2, checkpointing="split", tiled_loss=True)),
        case_of(settings=saving(2, checkpointed_layers=2, tiled_loss=True)),
        case_of(settings=saving(3, sequence_parallel=1), sequences=2),
        *(case_of(settings=settings(stage, overlap_comm=True), sequences=2) for stage in (1, 2, 3)),
    ),
)
HOSTED = (
    hosted_case_of(settings=settings(1, True)),
    hosted_case_of(settings=saving(3, tiled_loss=True), model=LLAMA, sequences=2),
    *further(
        hosted_case_of(settings=saving(0)),
        hosted_case_of(settings=settings(3, True, checkpointed_layers=2), model=LLAMA),
    ),
)


def swapped(first: str, second: str) -> Case:
    return case_of(
        settings=settings(1), swap=(f"layers.1.{first}.weight", f"layers.1.{second}.weight")
    )


SWAPPED = (swapped("attention.query", "attention.value"), *further(swapped("norm1", "norm2")))
in_bf16 = partial(case_of, sequences=2, dtype="bfloat16", model=LLAMA)
BF16 = (
    in_bf16(settings=settings(2, checkpointing="split", overlap_comm=True)),
    in_bf16(settings=saving(3)),
    *further(
        *(in_bf16(settings=settings(stage, True)) for stage in (1, 2, 3)),
        in_bf16(settings=saving(1)),
    ),
)


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest) -> dict[Case, list[list[StepResult]]]:
    """Every case that is tested, in two processes; a hosted one without hosting too."""
    cases = cases_of(request)
    return train_all(tuple(dict.fromkeys((*cases, *map(on_device, cases)))))


def on_device(case: Case) -> Case:
    return replace(case, system="deepspeed")


@pytest.mark.parametrize("case", EXACT + SELECTIVE, ids=str)
def test_losses_and_norms_are_the_reference(case, trained):
    first, second = trained[case]
    assert first == second
    loss, norm = differences(first, train_reference(case))
    assert loss < 1e-5
    assert norm < 1e-5


@pytest.mark.parametrize("case", BF16, ids=str)
def test_bfloat16_is_near_the_reference(case, trained):
    first, second = trained[case]
    assert first == second
    loss, norm = differences(first, train_reference(case))
    assert loss < 1e-3
    assert norm < 2e-2


@pytest.mark.parametrize("case", HOSTED, ids=str)
def test_hosted_checkpoints_are_those_on_the_device(case, trained):
    """The last digit may differ: MKL's sums may depend on where a tensor lies in memory."""
    for hosted, kept in zip(trained[case], trained[on_device(case)], strict=True):
        assert hosted[0] == kept[0]
        assert max(differences(hosted, kept)) < 3e-7
    loss, norm = differences(trained[case][0], train_reference(case))
    assert loss < 1e-5
    assert norm < 1e-5


@pytest.mark.parametrize("case", SWAPPED, ids=lambda case: " and ".join(case.swap))
def test_a_swapped_weight_is_seen(case, trained):
    loss, _ = differences(trained[case][0], train_reference(case))
    assert loss > 1e-5


def test_the_recipe_would_show_a_wrong_scale_of_gradients():
    case = case_of(settings=settings(0))
    free = replace(case.workload, optimizer=replace(RECIPE, clip_norm=1e9))
    clipped = train_reference(case)
    assert all(step.grad_norm > 2 * RECIPE.clip_norm for step in clipped)
    loss, _ = differences(clipped, train_reference(case, free))
    assert loss > 1e-4


def test_deepspeed_itself_hosts_nothing_on_a_cpu(monkeypatch):
    """Its own context marks the input and keeps it where it is: the reason of the refusal."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    offload_activations = pytest.importorskip(
        "deepspeed.runtime.activation_checkpointing.offload_activations"
    )
    offload = offload_activations.CheckpointHiddenStatesOffload()
    run = hosted_by_deepspeed(region(noop_context_fn), offload)
    x = torch.ones(64, 64, requires_grad=True) * 2
    with offload:
        run(torch.sin, x).sum().backward()
        stats = offload.stats
        assert (stats.marked_tensors, stats.skipped_marked_tensors) == (1, 1)
        assert stats.offloaded_bytes == 0


def test_restored_hidden_states_stay_until_the_backwards_end(monkeypatch):
    """Of DeepSpeed's own context, whose rule against CPUs is switched off."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    offload_activations = pytest.importorskip(
        "deepspeed.runtime.activation_checkpointing.offload_activations"
    )
    offload = offload_activations.CheckpointHiddenStatesOffload(
        use_pin_memory=False, use_streams=False
    )
    monkeypatch.setattr(offload, "_should_skip", lambda tensor: False)
    run = hosted_by_deepspeed(region(noop_context_fn), offload)
    restored = []
    hidden = torch.ones(64, 64, requires_grad=True)
    with offload:
        for _ in range(4):
            hidden = hidden * 1
            hidden.register_hook(lambda gradient: restored.append(len(offload._restored)))
            hidden = run(torch.sin, hidden)
        hidden.sum().backward()
    assert restored == [1, 2, 3, 4]
    assert not offload._restored


PARTITIONED = (
    case_of(settings=settings(3)),
    case_of(settings=saving(3), model=LLAMA),
    case_of(settings=settings(3, sequence_parallel=1), sequences=2),
)
OFFLOADED = (
    case_of(settings=settings(1, offload_optimizer=True)),
    case_of(settings=settings(2, offload_optimizer=True), sequences=2),
    case_of(settings=settings(3, offload_optimizer=True), model=LLAMA),
)


def _train_as_on_cuda(rank: int, ranks: int) -> dict[str, list[list[StepResult]]]:
    """Usual: partitioned in one piece. The others as on CUDA.

    ZeRO-3 partitions weights one by one, before they are on the device. An optimizer on the host
    is torch's AdamW: to build DeepSpeed's takes minutes.
    """
    results = {"usual": train(rank, ranks, PARTITIONED)}
    with patch("baselines.deepspeed.system.partitions_first", lambda *_: True):
        results["partitioned"] = train(rank, ranks, PARTITIONED)
    with (
        patch("baselines.deepspeed.adapter._check_on_a_cpu", lambda settings: None),
        patch("baselines.deepspeed.offloaded._why_no_cpu_adam", lambda: "a test"),
    ):
        results["offloaded"] = train(rank, ranks, OFFLOADED)
    return results


def test_what_cuda_alone_does_trains_alike() -> None:
    first, second = run_ranks(_train_as_on_cuda, 2)
    assert first == second
    assert first["partitioned"] == first["usual"]
    for case, steps in zip(OFFLOADED, first["offloaded"], strict=True):
        assert max(differences(steps, train_reference(case))) < 1e-5


def test_only_zero_3_on_cuda_partitions_first() -> None:
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert partitions_first(settings(3), cuda)
    assert not partitions_first(settings(3), cpu)
    assert not partitions_first(settings(2), cuda)
