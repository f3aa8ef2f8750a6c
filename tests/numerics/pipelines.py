"""A whole subsequence pipeline in one process, and the reference it must reproduce."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.protocol import Context
from baselines.reference import ReferenceModel
from sppo.comm import InProcessNetwork
from sppo.engine import Engine, StepCounters, run_together
from sppo.memory import PartShape, kept_peak, stage_memory
from sppo.model import StageWeights, stage_value, stage_weight_names
from sppo.plan import Plan, StagePlan, receive_ahead
from sppo.runtime import Runtime
from sppo.schedule import build_schedule, check_schedule, compute_order
from sppo.solver import host_bytes, part_plan, split_layers
from sppo.stage import Stage
from sppo.workload import Model, weight_shapes

CPU = torch.device("cpu")


def make_plan(
    model: Model,
    lengths: tuple[int, ...],
    *,
    stages: int,
    virtual_stages: int = 1,
    group: int | None = None,
    share: float = 0.0,
    sequences: int = 1,
    element_bytes: int = 8,
    fetch_ahead: int = 0,
) -> Plan:
    """A plan by hand: the given cut, the same offload share everywhere but the last."""
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    shapes = [
        PartShape(model=model, layers=range(*layers), element_bytes=element_bytes)
        for layers in split_layers(model.layers, stages * virtual_stages)
    ]
    group = group or len(lengths)
    order = compute_order(virtual_stages, len(lengths), group)
    stage_plans = []
    for stage in range(stages):
        mine = shapes[stage::stages]
        kept = [[shape.kept_bytes(length) for length in lengths] for shape in mine]
        chosen = [
            part_plan(shape, lengths, [share] * (len(lengths) - 1), sizes)
            for shape, sizes in zip(mine, kept, strict=True)
        ]
        parts = tuple(part for part, _ in chosen)
        memory = stage_memory(
            mine,
            starts,
            lengths,
            messages_ahead=receive_ahead(stages, virtual_stages, group),
            kept_peak_bytes=kept_peak(order, kept, [moved for _, moved in chosen]),
            host_bytes=sum(
                host_bytes(shape, part, lengths) for shape, part in zip(mine, parts, strict=True)
            ),
        )
        stage_plans.append(StagePlan(parts=parts, memory=memory))
    return Plan(
        workload="test",
        model=model,
        sequence_tokens=sum(lengths),
        sequences_per_step=sequences,
        element_bytes=element_bytes,
        hardware="cpu-2core",
        sequence_parallel=1,
        pipeline_parallel=stages,
        virtual_stages=virtual_stages,
        group_subsequences=group,
        lengths_tokens=lengths,
        stages=tuple(stage_plans),
        fetch_ahead=fetch_ahead,
        makespan_seconds=0.0,
        bubble_share=0.0,
        reasons=(),
        rejected=(),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Loss and gradients by stage parameter name."""

    loss: float
    gradients: dict[str, Tensor]
    counters: list[StepCounters]
    engines: list[Engine]


def run_pipeline(
    plan: Plan, weights: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype = torch.float64
) -> Outcome:
    """All stages in this process, through the in-process transport."""
    schedule = build_schedule(plan)
    check_schedule(schedule)
    network = InProcessNetwork(plan.pipeline_parallel)
    engines = []
    for rank in range(plan.pipeline_parallel):
        mine = StageWeights(plan.model, plan.stages[rank].layers, weights, CPU, dtype)
        stage = Stage(plan, rank, mine, Runtime(device=CPU, dtype=dtype))
        engines.append(Engine(schedule, stage, network.transport(rank)))
    counters = run_together(engines, tokens)
    gradients = {
        name: engine.stage.weights[name].gradient
        for engine in engines
        for name in engine.stage.weights.names()
    }
    return Outcome(loss=counters[-1].loss, gradients=gradients, counters=counters, engines=engines)


def run_reference(
    model: Model, weights: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of plain torch, under the stage parameters' names."""
    reference = ReferenceModel(model, weights, Context(rank=0, ranks=1, device=CPU, dtype=dtype))
    count = tokens[:, 1:].numel()
    total = 0.0
    for sequence in tokens:
        loss = reference(sequence[:-1], sequence[1:]) / count
        loss.backward()
        total += loss.item()
    canonical = {
        name: reference.get_parameter(name.replace(".", "__")).grad for name in weight_shapes(model)
    }
    gradients = {
        name: stage_value(canonical, parts, model.head_width)
        for name, parts in stage_weight_names(model, range(model.layers)).items()
    }
    return total, gradients
