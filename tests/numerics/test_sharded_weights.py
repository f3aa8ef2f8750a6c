"""Weights of blocks in pieces, gathered around each block's compute, against plain torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads, run_together
from sppo.config.models import Model
from sppo.model.weights import StageWeights
from sppo.plan.blocks import block_of
from tests.numerics.pipelines import CPU, make_plan
from tests.numerics.test_context import Division
from tests.numerics.test_degrees import MODELS as TRAINED
from tests.numerics.test_degrees import SEQUENCES, random_batches, train
from tests.numerics.test_exact import assert_equal_work
from tests.numerics.test_ulysses import MODELS

DIVISIONS = (Division(2, 2, 1), Division(4, 2, 1), Division(4, 4, 1), Division(4, 2, 2))
"""Whole stages of all-to-alls, one with TP beside them, and one with context parallelism."""


@settings(max_examples=12, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    units=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    division=st.sampled_from(DIVISIONS),
    degrees=st.sampled_from(((1, 1), (2, 1), (4, 1), (2, 2))),
    share=st.sampled_from((0.0, 0.5, 1.0)),
    recompute=st.sampled_from(block_of(MODELS[0]).recompute_levels),
    hosted=st.booleans(),
    sequences=st.integers(1, 2),
)
def test_any_division_of_a_stage_equals_plain_torch(
    model: Model,
    units: list[int],
    division: Division,
    degrees: tuple[int, int],
    share: float,
    recompute: tuple[str, ...],
    hosted: bool,
    sequences: int,
) -> None:
    """Stages of four layers down to one, whose only buffer is used again at once."""
    assert_equal_work(
        model,
        tuple(4 * unit for unit in units),
        stages=degrees[0],
        virtual_stages=degrees[1],
        **division._asdict(),
        share=share,
        recompute=recompute,
        kv_block_tokens=8 if hosted and division.context == 1 else 0,
        sequences=sequences,
        sharded_weights=True,
    )


@pytest.mark.parametrize(
    ("stages", "replicas", "division"),
    [
        (1, 1, Division(4, 2, 1)),
        (2, 2, Division(2, 2, 1)),
        (1, 2, Division(1, 1, 1)),
        *(
            pytest.param(*degrees, marks=pytest.mark.soak)
            for degrees in ((4, 2, Division(2, 2, 1)), (1, 1, Division(4, 2, 2)))
        ),
    ],
)
def test_optimizer_steps_equal_plain_torch(stages: int, replicas: int, division: Division) -> None:
    """Some middle stages have no whole matrix. Replicas alone can shard the weights too."""
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
        sharded_weights=True,
    )
    copies = division.ulysses * division.context * replicas
    for trainer in train(plan, weights, random_batches(model, sum(lengths))):
        blocks = trainer.weights.blocks
        assert blocks is not None
        state = sum(tensor.numel() for tensor in trainer.optimizer.tensors() if tensor.dim())
        whole = trainer.weights.matrices.numel() + trainer.weights.vectors.numel()
        assert state == 2 * (whole // copies + blocks.pieces.numel())
        assert blocks.pieces.numel() * copies == len(blocks.layers) * blocks.values.shape[1]


def test_a_rank_has_two_blocks_and_a_piece_of_each() -> None:
    """While a block computes, the next one is gathered; no block is gathered twice for it."""
    model = MODELS[0]
    plan = make_plan(model, (8, 8), stages=1, shards=2, ulysses=2, sharded_weights=True)
    groups = connect_threads(plan)
    weights = initial_weights(model, 3, torch.float64)

    def task(rank: int) -> list[list[int]]:
        group = groups[rank]
        own = StageWeights(plan, 0, weights, CPU, torch.float64, group.shards, group.copies)
        blocks = own.blocks
        assert blocks is not None
        in_flight = []
        for layer in blocks.layers:
            above = layer + 1 if layer + 1 in blocks.layers else None
            blocks.use(layer, above)
            in_flight.append(sorted(blocks._gathers))
            for name, value, _ in blocks.views(layer):
                assert torch.equal(own[f"layers.{layer}.{name}"].value, value)
        return in_flight

    assert run_together(groups, task) == [[[1], [2], [3], []]] * 2
    assert groups[0].copies.traffic.messages == len(plan.stages[0].layers)
