"""PyTorch native does the work of the reference: same losses, same norms, whatever the settings."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from baselines import reference
from baselines.native import adapter
from baselines.native.settings import NativeSettings
from baselines.protocol import Context, StepResult
from benchmarks.worker.weights import initial_weights, torch_dtype
from sppo.config.models import Model, gpt, llama
from sppo.config.sizes import Dtype
from sppo.config.workload import Cluster, Optimizer, Workload
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

RANKS = 2
RECIPE = Optimizer(clip_norm=0.1, epsilon=1e-3)
"""Clips every step, and lets AdamW see the scale of gradients, so that a wrong one shows."""
GPT = gpt("gpt-test", layers=4, hidden=64, heads=4, vocabulary=128)
LLAMA = llama(
    "llama-test", layers=4, hidden=64, heads=4, kv_heads=2, ffn=176, vocabulary=128, rope_theta=1e4
)
ONE_KV_HEAD = llama(
    "llama-1kv", layers=4, hidden=64, heads=4, kv_heads=1, ffn=176, vocabulary=128, rope_theta=1e4
)
UNEVEN = gpt("gpt-uneven", layers=2, hidden=60, heads=2, vocabulary=127)
"""FSDP2 pads the shards of 127 rows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training run; `swap` are two canonical weights given to it the wrong way round."""

    settings: NativeSettings
    model: Model = GPT
    sequences: int = 1
    dtype: Dtype = "float32"
    ranks: int = RANKS
    swap: tuple[str, str] | None = None

    @property
    def workload(self) -> Workload:
        return Workload(
            name="test",
            model=self.model,
            cluster=Cluster(hardware="cpu", device="cpu", nodes=1, ranks_per_node=self.ranks),
            sequence_tokens=256,
            sequences_per_step=self.sequences,
            dtype=self.dtype,
            optimizer=RECIPE,
        )

    def __str__(self) -> str:
        words = adapter.ADAPTER.describe(self.settings)
        return f"{self.model.name}, {self.sequences} x {self.dtype}, {words}"


def settings(degree: int = 2, **others: object) -> NativeSettings:
    return NativeSettings(sequence_parallel=degree, **others)


EXACT = (
    Case(settings=settings()),
    Case(settings=settings(reshard_after_forward=False)),
    *(Case(settings=settings(checkpointing=saved)) for saved in ("full", "save-attention")),
    Case(settings=settings(checkpointing="save-messages", checkpointed_layers=2), model=LLAMA),
    Case(settings=settings(checkpointing="save-messages"), model=ONE_KV_HEAD, sequences=2),
    Case(settings=settings(reshard_after_forward=False), model=UNEVEN, sequences=2),
    # Replicas: one sequence each, then two.
    Case(settings=settings(1), sequences=2),
    Case(settings=settings(1, checkpointing="save-attention"), model=UNEVEN, sequences=4),
    Case(settings=settings(checkpointing="save-attention"), dtype="float64", model=LLAMA),
    # A ring of two, also with fewer KV heads.
    Case(settings=settings(1, context_parallel=2)),
    Case(settings=settings(1, context_parallel=2, checkpointing="save-attention"), model=LLAMA),
)
FOUR_RANKS = (
    Case(settings=settings(context_parallel=2, checkpointing="save-attention"), ranks=4),
    Case(settings=settings(1, context_parallel=4), ranks=4, sequences=2),
    Case(settings=settings(context_parallel=1, checkpointing="full"), ranks=4, sequences=2),
)
SWAPPED = tuple(
    Case(settings=settings(), swap=(f"layers.1.{first}.weight", f"layers.1.{second}.weight"))
    for first, second in (("attention.query", "attention.value"), ("norm1", "norm2"))
)
BF16 = tuple(
    Case(settings=settings(checkpointing=saved), sequences=2, dtype="bfloat16", model=LLAMA)
    for saved in ("full", "save-messages")
)


def steps(workload: Workload) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randint(
            workload.model.vocabulary,
            (workload.sequences_per_step, tokens + 1),
            generator=generator,
        )
        for tokens in (64, workload.sequence_tokens, workload.sequence_tokens)
    ]


def context(rank: int, ranks: int, dtype: Dtype) -> Context:
    return Context(rank=rank, ranks=ranks, device=torch.device("cpu"), dtype=torch_dtype(dtype))


def train(rank: int, ranks: int, cases: tuple[Case, ...]) -> list[list[StepResult]]:
    results = []
    for case in cases:
        workload = case.workload
        weights = initial_weights(case.model, workload.seed, torch_dtype(case.dtype))
        if case.swap is not None:
            first, second = case.swap
            weights[first], weights[second] = weights[second], weights[first]
        system = adapter.ADAPTER.prepare(
            workload, case.settings, weights, context(rank, ranks, case.dtype)
        )
        results.append([system.step(tokens) for tokens in steps(workload)])
        held = {kind: list(tensors) for kind, tensors in system.tensors().items()}
        assert held["weights"]
        assert held["optimizer"]
        system.close()
    return results


def train_reference(case: Case) -> list[StepResult]:
    weights = initial_weights(case.model, case.workload.seed, torch_dtype(case.dtype))
    system = reference.ADAPTER.prepare(
        case.workload, reference.ReferenceSettings(), weights, context(0, 1, case.dtype)
    )
    return [system.step(tokens) for tokens in steps(case.workload)]


@pytest.fixture(scope="module")
def trained() -> dict[Case, list[list[StepResult]]]:
    """Every case in one pair of processes, or in four: case -> steps of each rank."""
    cases = EXACT + SWAPPED + BF16
    by_rank = run_ranks(train, RANKS, cases)
    four = run_ranks(train, 4, FOUR_RANKS)
    return {
        case: [results[index] for results in ranks]
        for all_cases, ranks in ((cases, by_rank), (FOUR_RANKS, four))
        for index, case in enumerate(all_cases)
    }


def differences(got: list[StepResult], wanted: list[StepResult]) -> tuple[float, float]:
    """The largest relative difference of losses, and of gradient norms."""
    pairs = list(zip(got, wanted, strict=True))
    return (
        max(abs(a.loss / b.loss - 1) for a, b in pairs),
        max(abs(a.grad_norm / b.grad_norm - 1) for a, b in pairs),
    )


@pytest.mark.parametrize("case", EXACT + FOUR_RANKS, ids=str)
def test_losses_and_norms_are_the_reference(case, trained):
    first, *others = trained[case]
    assert others == [first] * (case.ranks - 1)
    loss, norm = differences(first, train_reference(case))
    tolerance = 1e-9 if case.dtype == "float64" else 1e-5
    assert loss < tolerance
    assert norm < tolerance


@pytest.mark.parametrize("case", BF16, ids=str)
def test_bfloat16_is_near_the_reference(case, trained):
    first, second = trained[case]
    assert first == second
    loss, norm = differences(first, train_reference(case))
    assert loss < 1e-3
    assert norm < 2e-2


@pytest.mark.parametrize("case", SWAPPED, ids=lambda case: " and ".join(case.swap))
def test_a_swapped_weight_is_seen(case, trained):
    loss, _ = differences(trained[case][0], train_reference(case))
    assert loss > 1e-5
