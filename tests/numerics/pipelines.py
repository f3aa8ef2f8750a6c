"""A whole subsequence pipeline in one process, and the reference it must reproduce."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.protocol import Context
from baselines.reference import ReferenceModel
from sppo.comm.collectives import Team
from sppo.comm.in_process import connect_threads, run_together
from sppo.comm.mesh import RankGroups
from sppo.config.hardware import load_hardware
from sppo.config.models import Model
from sppo.config.sizes import Dtype
from sppo.config.workload import Cluster, Optimizer, Workload
from sppo.engine.context import EngineContext
from sppo.engine.engine import Engine, StepCounters, build_engine
from sppo.engine.optimizer import FlatAdamW
from sppo.memory_model.decisions import Decision, StageDecisions
from sppo.model.weights import StageWeights, stage_value, stage_weight_names
from sppo.plan.msp import Cut, msp_splits
from sppo.plan.plan import Plan
from sppo.plan.weights import weight_shapes
from sppo.planner.activations.policies import uniform
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.evaluate import plan_of
from sppo.planner.layouts.timed_layout import TimedLayout

CPU = torch.device("cpu")


def make_plan(
    model: Model,
    lengths: tuple[int, ...],
    *,
    stages: int,
    shards: int = 1,
    ulysses: int = 1,
    context: int = 1,
    replicas: int = 1,
    virtual_stages: int = 1,
    group: int | None = None,
    share: float = 0.0,
    recompute: tuple[str, ...] = (),
    kv_block_tokens: int = 0,
    mixed: bool = False,
    head_alone: bool = False,
    sharded_weights: bool = False,
    exchange_pieces: int = 1,
    sequences: int = 1,
    element_bytes: int = 8,
    fetch_ahead: int = 0,
    msp: bool = False,
) -> Plan:
    """A plan by hand: the given cut, the same decisions everywhere, the last subsequence stays.

    With `msp` slices are as equal as they can be.
    """
    ranks = stages * shards * replicas
    dtypes: dict[int, Dtype] = {2: "bfloat16", 4: "float32", 8: "float64"}
    workload = Workload(
        name="test",
        model=model,
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=ranks),
        sequence_tokens=sum(lengths),
        sequences_per_step=sequences,
        dtype=dtypes[element_bytes],
    )
    layout = TimedLayout(
        workload=workload,
        profile=load_hardware("cpu-2core"),
        sequence_parallel=shards,
        ulysses_parallel=ulysses,
        context_parallel=context,
        pipeline_parallel=stages,
        data_parallel=replicas,
        virtual_stages=virtual_stages,
        group_subsequences=group or len(lengths),
        lengths_tokens=lengths,
        kv_block_tokens=kv_block_tokens,
        kv_sets=2 if mixed else 1,
        head_alone=head_alone,
        sharded_weights=sharded_weights,
        exchange_pieces=exchange_pieces,
    )

    def choose(problem: StageProblem) -> StageDecisions:
        known = problem.shapes[0].saved_tensors
        names = tuple(name for name in recompute if name in known)
        return uniform(problem, Decision(recompute=names), lambda part, index: share)

    plan = replace(plan_of(layout, choose), fetch_ahead=fetch_ahead)
    if not msp:
        return plan
    cut = equal_slices(lengths, unit=shards)
    splits = msp_splits(stages, stages * virtual_stages, len(lengths), cut)
    return replace(plan, msp_splits=splits, prediction=None)


def equal_slices(lengths: tuple[int, ...], unit: int = 1) -> Cut:
    """Slices of multiples of `unit`, which divides the lengths."""

    def cut(part: int, index: int, ranks: int) -> tuple[int, ...] | None:
        units, rest = divmod(lengths[index] // unit, ranks)
        if not units:
            return None
        return tuple(unit * (units + (number < rest)) for number in range(ranks))

    return cut


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Loss, and for every shard the gradients by stage parameter name."""

    loss: float
    shards: list[dict[str, Tensor]]
    counters: list[StepCounters]
    engines: list[Engine]

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Those of a pipeline whose stages are not shared."""
        (whole,) = self.shards
        return whole


def engine_of(
    plan: Plan, weights: dict[str, Tensor], dtype: torch.dtype, groups: RankGroups
) -> Engine:
    """The engine of one rank, without an optimizer."""
    stage = groups.coordinate.stage
    stage_weights = StageWeights(plan, stage, weights, CPU, dtype, groups.shards, groups.copies)
    return build_engine(plan, stage_weights, EngineContext(device=CPU, dtype=dtype), groups)


def block_matrices(
    weights: Sequence[tuple[RankGroups, StageWeights]], what: str
) -> dict[tuple[int, int], dict[str, Tensor]]:
    """By stage and TP shard: the sharded matrices of blocks, from the pieces of all ranks.

    what: "value" or "gradient". Empty where the weights are whole.
    """
    pieces: dict[tuple[int, int], dict[int, Tensor]] = defaultdict(dict)
    matrices: dict[tuple[int, int], dict[str, Tensor]] = defaultdict(dict)
    for groups, own in weights:
        if own.blocks is not None:
            piece = own.blocks.pieces if what == "value" else own.blocks.piece_gradients
            pieces[place_of(groups)][groups.copies.index] = piece
    for groups, own in weights:
        if own.blocks is None or matrices[place_of(groups)]:
            continue
        of_copies = pieces[place_of(groups)]
        flat = torch.cat([of_copies[copy] for copy in range(groups.copies.size)], dim=1)
        for layer, row in zip(own.blocks.layers, flat, strict=True):
            start = 0
            for name, value, _ in own.blocks.views(layer):
                end = start + value.numel()
                matrices[place_of(groups)][f"layers.{layer}.{name}"] = row[start:end].view_as(value)
                start = end
    return matrices


def place_of(groups: RankGroups) -> tuple[int, int]:
    """Stage and TP shard: ranks of one place have the same weights."""
    return groups.coordinate.stage, groups.shards.index


def run_pipeline(
    plan: Plan, weights: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype = torch.float64
) -> Outcome:
    """All ranks of one replica in this process; every rank a thread."""
    groups = connect_threads(plan)
    scale = 1.0 / tokens[:, 1:].numel()
    engines = [engine_of(plan, weights, dtype, each) for each in groups]

    def run(rank: int) -> StepCounters:
        counters = engines[rank].run(tokens, scale)
        weights = engines[rank].stage.weights
        copies = groups[rank].copies
        FlatAdamW(weights, Optimizer(), copies).reduce(groups[rank].shards)
        if copies.size > 1:
            for gradient in (weights.matrix_gradients, weights.vector_gradients):
                if gradient.numel():
                    own = gradient.chunk(copies.size)[copies.index]
                    copies.all_gather(own, into=gradient).wait()
        return counters

    counters = run_together(groups, run)
    of_blocks = block_matrices(
        [(engine.stage.groups, engine.stage.weights) for engine in engines], "gradient"
    )
    shards: list[dict[str, Tensor]] = [{} for _ in range(plan.sequence_parallel)]
    for engine in engines:
        gradients = {name: weight.gradient for name, weight in engine.stage.weights.items()}
        gradients |= of_blocks[place_of(engine.stage.groups)]
        shards[engine.stage.groups.coordinate.shard].update(gradients)
    loss = sum(counter.loss for counter in counters)
    return Outcome(loss=loss, shards=shards, counters=counters, engines=engines)


def run_reference(
    model: Model, weights: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of plain torch, under the canonical names."""
    reference = ReferenceModel(model, weights, Context(rank=0, ranks=1, device=CPU, dtype=dtype))
    count = tokens[:, 1:].numel()
    total = 0.0
    for sequence in tokens:
        loss = reference(sequence[:-1], sequence[1:]) / count
        loss.backward()
        total += loss.item()
    gradients = {
        name: reference.get_parameter(name.replace(".", "__")).grad for name in weight_shapes(model)
    }
    return total, gradients


def stage_values(
    model: Model, canonical: dict[str, Tensor], shards: Team | None = None
) -> dict[str, Tensor]:
    """One shard of all stages' parameters, by the stage's names."""
    return {
        name: stage_value(model, canonical, parts, shards or Team())
        for name, parts in stage_weight_names(model, range(model.layers), True).items()
    }
