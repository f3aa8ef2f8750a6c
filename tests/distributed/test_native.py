"""PyTorch native does the work of the reference: same losses, same norms, whatever the settings."""

from __future__ import annotations

from functools import partial

import pytest

from baselines.native.settings import NativeSettings
from baselines.protocol import StepResult
from sppo.config.models import gpt
from tests.distributed.training_cases import (
    LLAMA,
    ONE_KV_HEAD,
    Case,
    differences,
    train_all,
    train_reference,
)

pytestmark = pytest.mark.slow

case_of = partial(Case, system="native")

UNEVEN = gpt("gpt-uneven", layers=2, hidden=60, heads=2, vocabulary=127)
"""FSDP2 pads the shards of 127 rows."""


def settings(degree: int = 2, **others: object) -> NativeSettings:
    return NativeSettings(sequence_parallel=degree, **others)


EXACT = (
    case_of(settings=settings()),
    case_of(settings=settings(reshard_after_forward=False)),
    *(case_of(settings=settings(checkpointing=saved)) for saved in ("full", "save-attention")),
    case_of(settings=settings(checkpointing="save-messages", checkpointed_layers=2), model=LLAMA),
    case_of(settings=settings(checkpointing="save-messages"), model=ONE_KV_HEAD, sequences=2),
    case_of(settings=settings(reshard_after_forward=False), model=UNEVEN, sequences=2),
    # Replicas: one sequence each, then two.
    case_of(settings=settings(1), sequences=2),
    case_of(settings=settings(1, checkpointing="save-attention"), model=UNEVEN, sequences=4),
    case_of(settings=settings(checkpointing="save-attention"), dtype="float64", model=LLAMA),
    # A ring of two, also with fewer KV heads.
    case_of(settings=settings(1, context_parallel=2)),
    case_of(settings=settings(1, context_parallel=2, checkpointing="save-attention"), model=LLAMA),
)
FOUR_RANKS = (
    case_of(settings=settings(context_parallel=2, checkpointing="save-attention"), ranks=4),
    case_of(settings=settings(1, context_parallel=4), ranks=4, sequences=2),
    case_of(settings=settings(context_parallel=1, checkpointing="full"), ranks=4, sequences=2),
)
SWAPPED = tuple(
    case_of(settings=settings(), swap=(f"layers.1.{first}.weight", f"layers.1.{second}.weight"))
    for first, second in (("attention.query", "attention.value"), ("norm1", "norm2"))
)
BF16 = tuple(
    case_of(settings=settings(checkpointing=saved), sequences=2, dtype="bfloat16", model=LLAMA)
    for saved in ("full", "save-messages")
)


@pytest.fixture(scope="module")
def trained() -> dict[Case, list[list[StepResult]]]:
    """Every case, in two or four processes."""
    return train_all(EXACT + SWAPPED + BF16) | train_all(FOUR_RANKS, 4)


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
