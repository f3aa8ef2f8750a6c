"""All-to-alls around attention, alone and with TP, against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.worker.weights import initial_weights
from sppo.comm.collectives import in_order
from sppo.comm.in_process import connect_threads, run_together
from sppo.config.models import Model, gpt, llama
from sppo.plan.blocks import block_of
from sppo.plan.blocks.attention import RECOMPUTE_LEAN
from tests.numerics.pipelines import make_plan
from tests.numerics.test_degrees import MODELS as TRAINED
from tests.numerics.test_degrees import SEQUENCES, random_batches, train
from tests.numerics.test_exact import assert_equal_work

MODELS = (
    gpt("gpt-test", layers=4, hidden=32, heads=4, vocabulary=60),
    llama("llama-test", layers=4, hidden=32, heads=8, kv_heads=4, ffn=48, vocabulary=60),
)

DIVISIONS = ((2, 2), (4, 2), (4, 4))
"""SP, and the Ulysses degree in it."""


@settings(max_examples=12, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    units=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    division=st.sampled_from(DIVISIONS),
    degrees=st.sampled_from(((1, 1), (2, 1), (2, 2))),
    share=st.sampled_from((0.0, 0.5, 1.0)),
    recompute=st.sampled_from(block_of(MODELS[0]).recompute_levels),
    kv_block_tokens=st.sampled_from((0, 0, 16)),
    sequences=st.integers(1, 2),
    fetch_ahead=st.integers(0, 1),
    pieces=st.integers(1, 4),
)
def test_any_division_of_a_stage_equals_plain_torch(
    model: Model,
    units: list[int],
    division: tuple[int, int],
    degrees: tuple[int, int],
    share: float,
    recompute: tuple[str, ...],
    kv_block_tokens: int,
    sequences: int,
    fetch_ahead: int,
    pieces: int,
) -> None:
    """K and V in the host tier are read once for a subsequence, so pieces need a single one."""
    assert_equal_work(
        model,
        tuple(4 * unit for unit in units),
        stages=degrees[0],
        virtual_stages=degrees[1],
        shards=division[0],
        ulysses=division[1],
        share=share,
        recompute=recompute,
        kv_block_tokens=kv_block_tokens,
        sequences=sequences,
        fetch_ahead=fetch_ahead,
        exchange_pieces=pieces if not kv_block_tokens or len(units) == 1 else 1,
    )


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("hosted", [0, 16])
def test_one_hosted_subsequence_in_pieces_equals_plain_torch(
    division: tuple[int, int], hosted: int
) -> None:
    assert_equal_work(
        MODELS[1],
        (60,),
        stages=1,
        virtual_stages=1,
        shards=division[0],
        ulysses=division[1],
        share=0.5,
        recompute=RECOMPUTE_LEAN,
        kv_block_tokens=hosted,
        exchange_pieces=4,
    )


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_slices_of_msp_equal_plain_torch(model: Model, division: tuple[int, int]) -> None:
    assert_equal_work(
        model,
        (32, 24, 16, 8),
        stages=2,
        virtual_stages=1,
        shards=division[0],
        ulysses=division[1],
        share=0.5,
        recompute=RECOMPUTE_LEAN,
        msp=True,
        exchange_pieces=3,
    )


@pytest.mark.parametrize(
    ("stages", "shards", "ulysses", "replicas"),
    [
        (1, 4, 2, 1),
        (2, 2, 2, 2),
        *(
            pytest.param(*degrees, marks=pytest.mark.soak)
            for degrees in ((1, 2, 2, 1), (2, 4, 4, 1), (1, 4, 2, 2))
        ),
    ],
)
def test_optimizer_steps_equal_plain_torch(
    stages: int, shards: int, ulysses: int, replicas: int
) -> None:
    model = TRAINED[(stages + replicas) % 2]
    weights = initial_weights(model, 3, torch.float64)
    lengths = (24, 16, 8)
    plan = make_plan(
        model,
        lengths,
        stages=stages,
        shards=shards,
        ulysses=ulysses,
        replicas=replicas,
        share=0.5,
        sequences=SEQUENCES,
    )
    for trainer in train(plan, weights, random_batches(model, sum(lengths))):
        state = sum(tensor.numel() for tensor in trainer.optimizer.tensors() if tensor.dim())
        flat = trainer.weights.matrices.numel() + trainer.weights.vectors.numel()
        assert state == 2 * flat // (ulysses * replicas), "copies of weights share their state"


def test_an_exchange_gives_own_heads_of_all_tokens_and_its_inverse_gives_them_back() -> None:
    """Four ranks, TP 2 x Ulysses 2: the value of an element says its token and its column."""
    plan = make_plan(MODELS[0], (8,), stages=1, shards=4, ulysses=2)
    groups = connect_threads(plan)
    tokens, widths = torch.arange(8), (8, 4)

    def task(rank: int) -> None:
        ranks = groups[rank].stage_ranks
        own = ranks.own_part(tokens)
        columns = torch.arange(100 * rank % 200, 100 * rank % 200 + sum(widths))
        rows = 1000 * own.unsqueeze(-1) + columns
        heads = in_order(ranks.exchange_for_heads(rows, widths), ranks.size)
        place = ranks.ulysses.index
        first = columns[: widths[0]].chunk(2)[place]
        second = columns[widths[0] :].chunk(2)[place]
        assert torch.equal(heads, 1000 * tokens.unsqueeze(-1) + torch.cat((first, second)))
        exchanged = ranks.exchange_for_heads(rows, widths)
        assert torch.equal(ranks.exchange_for_tokens(exchanged, widths), rows)

    run_together(groups, task)
    assert [group.ulysses.index for group in groups] == [0, 0, 1, 1]
    assert [group.shards.index for group in groups] == [0, 1, 0, 1]
