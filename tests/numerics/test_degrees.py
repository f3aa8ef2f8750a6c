"""Optimizer steps of every PP x SP x DP against plain torch, in float64; one rank a thread."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from baselines.protocol import Context
from baselines.reference import ReferenceSettings, ReferenceSystem
from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads, run_together
from sppo.comm.mesh import coordinate_of, rank_of
from sppo.config.models import Model, gpt, llama
from sppo.config.workload import Cluster, Optimizer, Workload
from sppo.engine.context import EngineContext
from sppo.engine.trainer import Trainer
from sppo.plan.blocks.attention import RECOMPUTE_LEAN
from sppo.plan.plan import Plan, StepPlans
from sppo.plan.weights import weight_shapes
from tests.numerics.pipelines import CPU, block_matrices, make_plan, place_of, stage_values

MODELS = (
    gpt("gpt-test", layers=4, hidden=32, heads=4, vocabulary=60),
    llama("llama-test", layers=4, hidden=32, heads=8, kv_heads=4, ffn=48, vocabulary=60),
)
RECIPE = Optimizer(learning_rate=1e-2, clip_norm=0.1, epsilon=1e-3)
"""Clips every step, and lets AdamW see the scale of gradients, so that a wrong one shows."""

SEQUENCES = 4
STEPS = 2


def _workload(plan: Plan) -> Workload:
    return Workload(
        name="test",
        model=plan.model,
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=plan.ranks),
        sequence_tokens=plan.sequence_tokens,
        sequences_per_step=plan.sequences_per_step,
        dtype="float64",
        optimizer=RECIPE,
    )


def train(plan: Plan, weights: dict[str, Tensor], batches: list[Tensor]) -> list[Trainer]:
    """All ranks after the steps; losses and norms must be the same on all of them."""
    groups = connect_threads(plan)
    workload, plans = _workload(plan), StepPlans(whole=plan, short=plan)
    context = EngineContext(device=CPU, dtype=torch.float64)
    trainers = [Trainer(workload, plans, weights, context, each) for each in groups]

    def run(rank: int) -> list[tuple[float, float]]:
        return [trainers[rank].step(batch) for batch in batches]

    results = run_together(groups, run)
    assert all(result == results[0] for result in results)
    reference = ReferenceSystem(
        workload,
        ReferenceSettings(),
        weights,
        Context(rank=0, ranks=1, device=CPU, dtype=torch.float64),
    )
    for batch, (loss, norm) in zip(batches, results[0], strict=True):
        expected_step = reference.step(batch)
        assert abs(loss - expected_step.loss) < 1e-9
        assert abs(norm - expected_step.grad_norm) < 1e-9
    updated = {
        name: reference.model.get_parameter(name.replace(".", "__")).detach()
        for name in weight_shapes(plan.model)
    }
    of_blocks = block_matrices([(trainer.groups, trainer.weights) for trainer in trainers], "value")
    for trainer in trainers:
        expected = stage_values(plan.model, updated, trainer.groups.shards)
        values = {name: weight.value for name, weight in trainer.weights.items()}
        values |= of_blocks[place_of(trainer.groups)]
        for name, value in values.items():
            difference = (value - expected[name]).abs().max().item()
            assert difference < 1e-9, f"{trainer.groups.coordinate}, {name}: {difference}"
    return trainers


def random_batches(model: Model, tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randint(0, model.vocabulary, (SEQUENCES, tokens + 1), generator=generator)
        for _ in range(STEPS)
    ]


EVERY_PAIR = (
    *((1, 1, 1), (1, 2, 2), (1, 4, 4)),
    *((2, 1, 2), (2, 2, 4), (2, 4, 1)),
    *((4, 1, 4), (4, 2, 1)),
)
"""Of two degrees, each value with each but 4 and 4; the others are in `tox -e soak-cases`."""


@pytest.mark.parametrize(
    ("stages", "shards", "replicas"),
    [
        pytest.param(*degrees, marks=[] if degrees in EVERY_PAIR else [pytest.mark.soak])
        for degrees in product((1, 2, 4), repeat=3)
    ],
)
def test_every_combination_of_degrees(stages: int, shards: int, replicas: int) -> None:
    model = MODELS[(stages + shards + replicas) % 2]
    weights = initial_weights(model, 3, torch.float64)
    lengths = (24, 16, 8)
    plan = make_plan(
        model,
        lengths,
        stages=stages,
        shards=shards,
        replicas=replicas,
        share=0.5,
        recompute=RECOMPUTE_LEAN if stages == 2 else (),
        sequences=SEQUENCES,
        mixed=stages > 1 and replicas < SEQUENCES and replicas != 2,
        msp=stages > 1 and replicas == 2,
    )
    trainers = train(plan, weights, random_batches(model, sum(lengths)))
    assert len(trainers) == stages * shards * replicas
    for trainer in trainers:
        state = sum(tensor.numel() for tensor in trainer.optimizer.tensors() if tensor.dim())
        flat = trainer.weights.matrices.numel() + trainer.weights.vectors.numel()
        assert state == 2 * flat // replicas, "the optimizer's state is shared by the replicas"


def test_a_rank_has_one_coordinate() -> None:
    plan = make_plan(MODELS[0], (8, 8), stages=2, shards=2, replicas=2, sequences=2)
    coordinates = [coordinate_of(plan, rank) for rank in range(8)]
    assert len(set(coordinates)) == plan.ranks == 8
    assert [rank_of(plan, coordinate) for coordinate in coordinates] == list(range(8))
    assert [coordinate.shard for coordinate in coordinates[:4]] == [0, 1, 0, 1]
