"""Context parallelism inside a stage, alone and with TP and all-to-alls, against plain torch."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads, run_together
from sppo.config.models import Model, gpt, llama
from sppo.plan.blocks import block_of
from tests.numerics.pipelines import make_plan
from tests.numerics.test_degrees import MODELS as TRAINED
from tests.numerics.test_degrees import SEQUENCES, random_batches, train
from tests.numerics.test_exact import assert_equal_work

MODELS = (
    gpt("gpt-test", layers=4, hidden=32, heads=4, vocabulary=60),
    llama("llama-test", layers=4, hidden=32, heads=8, kv_heads=2, ffn=48, vocabulary=60),
)


class Division(NamedTuple):
    """SP, and the Ulysses and the context degree in it."""

    shards: int
    ulysses: int
    context: int


DIVISIONS = (Division(2, 1, 2), Division(4, 1, 2), Division(4, 2, 2), Division(4, 1, 4))


@settings(max_examples=12, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    units=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    division=st.sampled_from(DIVISIONS),
    degrees=st.sampled_from(((1, 1), (2, 1), (2, 2))),
    share=st.sampled_from((0.0, 0.5, 1.0)),
    recompute=st.sampled_from(block_of(MODELS[0]).recompute_levels),
    sequences=st.integers(1, 2),
    fetch_ahead=st.integers(0, 1),
)
def test_any_division_of_a_stage_equals_plain_torch(
    model: Model,
    units: list[int],
    division: Division,
    degrees: tuple[int, int],
    share: float,
    recompute: tuple[str, ...],
    sequences: int,
    fetch_ahead: int,
) -> None:
    """From one token a rank on: then a later rank's key is one that no query of this rank sees."""
    assert_equal_work(
        model,
        tuple(4 * unit for unit in units),
        stages=degrees[0],
        virtual_stages=degrees[1],
        **division._asdict(),
        share=share,
        recompute=recompute,
        sequences=sequences,
        fetch_ahead=fetch_ahead,
    )


@pytest.mark.parametrize("division", DIVISIONS)
def test_a_prefix_of_several_blocks_equals_plain_torch(
    division: Division, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the prefix are at most as long as the queries; some are shorter."""
    monkeypatch.setattr("sppo.model.mixers.divided_layer.PREFIX_BLOCK_TOKENS", 1)
    assert_equal_work(
        MODELS[1],
        (16, 8, 24, 4),
        stages=1,
        virtual_stages=1,
        **division._asdict(),
        share=0.0,
        recompute=block_of(MODELS[1]).recompute_full,
    )


@pytest.mark.parametrize(("stages", "tokens", "pieces"), [(1, 60, 4), (2, 8, 3), (1, 4, 2)])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_one_subsequence_exchanged_in_pieces_equals_plain_torch(
    model: Model, stages: int, tokens: int, pieces: int
) -> None:
    """Each piece gathers its own K and V; with one row a rank there is one piece."""
    assert_equal_work(
        model,
        (tokens,),
        stages=stages,
        virtual_stages=1,
        **Division(4, 2, 2)._asdict(),
        share=0.5,
        recompute=block_of(model).recompute_full,
        sequences=2,
        exchange_pieces=pieces,
    )


@pytest.mark.parametrize(
    ("stages", "replicas", "division"),
    [
        (1, 1, Division(4, 2, 2)),
        (2, 2, Division(2, 1, 2)),
        *(
            pytest.param(*degrees, marks=pytest.mark.soak)
            for degrees in ((1, 1, Division(2, 1, 2)), (2, 1, Division(4, 1, 2)))
        ),
    ],
)
def test_optimizer_steps_equal_plain_torch(stages: int, replicas: int, division: Division) -> None:
    model = TRAINED[(stages + replicas) % 2]
    weights = initial_weights(model, 3, torch.float64)
    lengths = (24, 16, 8)
    plan = make_plan(
        model,
        lengths,
        stages=stages,
        **division._asdict(),
        replicas=replicas,
        share=0.5,
        sequences=SEQUENCES,
    )
    copies = division.ulysses * division.context * replicas
    for trainer in train(plan, weights, random_batches(model, sum(lengths))):
        state = sum(tensor.numel() for tensor in trainer.optimizer.tensors() if tensor.dim())
        flat = trainer.weights.matrices.numel() + trainer.weights.vectors.numel()
        assert state == 2 * flat // copies, "copies of weights share their state"


def test_every_token_is_dealt_to_one_rank_of_a_context_and_weights() -> None:
    """Eight ranks, TP 2 x Ulysses 2 x CP 2: tokens of a context rank are every second one."""
    plan = make_plan(MODELS[0], (16,), stages=1, shards=8, ulysses=2, context=2)
    groups = connect_threads(plan)
    tokens = torch.arange(16)

    def task(rank: int) -> list[int]:
        ranks = groups[rank].stage_ranks
        own = ranks.own_part(tokens)
        assert torch.equal(own % 2, torch.full_like(own, ranks.context.index))
        mine: list[int] = own.view(ranks.shards.size, -1)[ranks.shards.index].tolist()
        return mine

    dealt = run_together(groups, task)
    assert sorted(token for rows in dealt for token in rows) == tokens.tolist()
    places = [(each.context.index, each.ulysses.index, each.shards.index) for each in groups]
    assert places == [(c, u, t) for c in (0, 1) for u in (0, 1) for t in (0, 1)]
