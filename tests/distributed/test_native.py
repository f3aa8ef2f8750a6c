"""PyTorch native does the work of the reference: same losses, same norms, whatever the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest
import torch

from baselines import reference
from baselines.native.adapter import ADAPTER
from baselines.native.settings import NativeSettings
from baselines.protocol import StepResult
from benchmarks.worker.weights import initial_weights, torch_dtype
from sppo.config.models import gpt
from tests.distributed.training_cases import (
    LLAMA,
    ONE_KV_HEAD,
    Case,
    cases_of,
    context,
    differences,
    further,
    steps,
    train,
    train_all,
    train_reference,
)
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

case_of = partial(Case, system="native")

UNEVEN = gpt("gpt-uneven", layers=2, hidden=60, heads=2, vocabulary=127)
"""FSDP2 pads the shards of 127 rows."""


def settings(degree: int = 2, **others: object) -> NativeSettings:
    return NativeSettings(sequence_parallel=degree, **others)


def tensor(ulysses: int = 1, **others: object) -> NativeSettings:
    return NativeSettings(sequence_parallel=ulysses, tensor_parallel=2, **others)


EXACT = (
    case_of(settings=settings(checkpointing="save-messages", checkpointed_layers=2), model=LLAMA),
    case_of(settings=settings(checkpointing="full"), model=ONE_KV_HEAD, sequences=2),
    case_of(settings=settings(reshard_after_forward=False), model=UNEVEN, sequences=2),
    # Replicas, two sequences each.
    case_of(settings=settings(1, checkpointing="save-attention"), model=UNEVEN, sequences=4),
    case_of(settings=settings(checkpointing="save-attention"), dtype="float64", model=LLAMA),
    # A ring of two, with fewer KV heads.
    case_of(settings=settings(1, context_parallel=2, checkpointing="save-attention"), model=LLAMA),
    # TP: a KV head each; two sequences, whose gradients of the norms add up.
    case_of(settings=tensor(checkpointing="save-attention"), model=LLAMA),
    case_of(settings=tensor(reshard_after_forward=False, checkpointing="full"), sequences=2),
    *further(
        case_of(settings=settings()),
        case_of(settings=settings(checkpointing="full")),
        case_of(settings=settings(checkpointing="save-messages"), model=ONE_KV_HEAD, sequences=2),
        case_of(settings=settings(reshard_after_forward=False)),
        case_of(settings=settings(checkpointing="save-attention")),
        case_of(settings=settings(1), sequences=2),
        case_of(settings=settings(1, context_parallel=2)),
    ),
)
FOUR_RANKS = (
    case_of(settings=tensor(context_parallel=2, checkpointing="save-attention"), ranks=4),
    # FSDP2 over two replicas of a TP group.
    case_of(settings=tensor(checkpointing="save-attention"), ranks=4, sequences=2),
    *further(
        case_of(settings=settings(context_parallel=2, checkpointing="save-attention"), ranks=4),
        case_of(settings=settings(1, context_parallel=4), ranks=4, sequences=2),
        case_of(settings=settings(context_parallel=1, checkpointing="full"), ranks=4, sequences=2),
        case_of(settings=tensor(2, checkpointing="save-messages"), ranks=4, model=LLAMA),
    ),
)


def swapped(first: str, second: str) -> Case:
    return case_of(
        settings=settings(), swap=(f"layers.1.{first}.weight", f"layers.1.{second}.weight")
    )


SWAPPED = (swapped("attention.query", "attention.value"), *further(swapped("norm1", "norm2")))
in_bf16 = partial(case_of, sequences=2, dtype="bfloat16", model=LLAMA)
BF16 = (
    in_bf16(settings=tensor(checkpointing="save-attention")),
    *further(
        in_bf16(settings=settings(checkpointing="save-messages")),
        in_bf16(settings=settings(checkpointing="full")),
    ),
)


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest) -> dict[Case, list[list[StepResult]]]:
    """Every case that is tested, in two or four processes."""
    results = {}
    for ranks in (2, 4):
        results |= train_all([case for case in cases_of(request) if case.ranks == ranks], ranks)
    return results


@pytest.mark.parametrize("case", EXACT + FOUR_RANKS, ids=str)
def test_losses_and_norms_are_the_reference(case, trained):
    first, *others = trained[case]
    assert others == [first] * (case.ranks - 1)
    loss, norm = differences(first, train_reference(case))
    tolerance = 1e-9 if case.dtype == "float64" else 1e-5
    assert loss < tolerance
    assert norm < tolerance


COMPILED = (
    case_of(settings=settings(checkpointing="save-messages", compile=True), model=LLAMA),
    case_of(
        settings=settings(1, checkpointed_layers=2, checkpointing="full", compile=True), sequences=2
    ),
)


def _train_compiled(rank: int, ranks: int, case: Case) -> list[StepResult]:
    """With torch's own operators in the graph: to build kernels by g++ takes minutes."""
    from torch._dynamo.utils import counters

    with patch("baselines.native.sharding.BACKEND", "aot_eager"):
        (results,) = train(rank, ranks, (case,))
    assert counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]
    return results


@pytest.mark.soak
@pytest.mark.parametrize("compiled", COMPILED, ids=str)
def test_compiled_blocks_train_alike(compiled: Case) -> None:
    first, second = run_ranks(_train_compiled, 2, compiled)
    assert first == second
    assert max(differences(first, train_reference(compiled))) < 1e-5


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


GRADIENTS = (
    case_of(settings=tensor(2, checkpointing="save-attention"), ranks=4, dtype="float64"),
    *further(case_of(settings=tensor(), dtype="float64")),
)


def gradients(rank: int, ranks: int, case: Case) -> dict[str, torch.Tensor]:
    """The gradients of one step, whole; those of query, key and value in the ranks' order."""
    weights = initial_weights(case.model, case.workload.seed, torch_dtype(case.dtype))
    place = context(rank, ranks, case.dtype)
    system = ADAPTER.prepare(case.workload, case.settings, weights, place)
    kept: dict[str, torch.Tensor] = {}

    def keep() -> None:
        for name, parameter in system.decoder.named_parameters():
            kept[name] = parameter.grad.full_tensor()

    system.optimizer.step = keep
    system.step(steps(case.workload)[1])
    system.close()
    return kept


def of_query_key_value(grads: Callable[[str], torch.Tensor], layer: str, kind: str, degree: int):
    parts = [
        grads(f"{layer}attention.{part}.{kind}").chunk(degree) for part in ("query", "key", "value")
    ]
    return torch.cat([part[rank] for rank in range(degree) for part in parts])


@pytest.mark.parametrize("gradients_case", GRADIENTS, ids=str)
def test_every_gradient_under_tensor_parallelism_is_the_reference(gradients_case):
    case = gradients_case
    weights = initial_weights(case.model, case.workload.seed, torch_dtype(case.dtype))
    wanted = reference.ADAPTER.prepare(
        case.workload, reference.ReferenceSettings(), weights, context(0, 1, case.dtype)
    )
    wanted.step(steps(case.workload)[1])

    def grads(name: str) -> torch.Tensor:
        return wanted.model.weight(name).grad

    first, *others = run_ranks(gradients, case.ranks, case)
    assert len(first) > 4 * 10
    for name, gradient in first.items():
        layer, _, kind = name.partition("attention.qkv.")
        degree = case.settings.tensor_parallel
        expected = of_query_key_value(grads, layer, kind, degree) if kind else grads(name)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9 * expected.abs().max())
        assert all(torch.equal(gradient, other[name]) for other in others)
