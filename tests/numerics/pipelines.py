"""A whole subsequence pipeline in one process, and the reference it must reproduce."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.protocol import Context
from baselines.reference import ReferenceModel
from sppo.checker import check_schedule
from sppo.comm import InProcessNetwork
from sppo.drafts import plan_of
from sppo.engine import Engine, StepCounters, run_together
from sppo.fates import Fate, StageFates, StageProblem
from sppo.layouts import Layout
from sppo.model import StageWeights, stage_value, stage_weight_names
from sppo.msp import Cut, lendings
from sppo.plan import Plan
from sppo.policies import uniform
from sppo.profile import load_profile
from sppo.program import build_schedule
from sppo.runtime import Runtime
from sppo.stage import Stage
from sppo.workload import Cluster, Dtype, Model, Workload, weight_shapes

CPU = torch.device("cpu")


def make_plan(
    model: Model,
    lengths: tuple[int, ...],
    *,
    stages: int,
    virtual_stages: int = 1,
    group: int | None = None,
    share: float = 0.0,
    recompute: tuple[str, ...] = (),
    kv_block_tokens: int = 0,
    mixed: bool = False,
    head_alone: bool = False,
    sequences: int = 1,
    element_bytes: int = 8,
    fetch_ahead: int = 0,
    msp: bool = False,
) -> Plan:
    """A plan by hand: the given cut, the same fates everywhere, the last subsequence stays.

    With `msp` slices are as equal as they can be.
    """
    dtypes: dict[int, Dtype] = {4: "float32", 8: "float64"}
    workload = Workload(
        name="test",
        model=model,
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=stages),
        sequence_tokens=sum(lengths),
        sequences_per_step=sequences,
        dtype=dtypes[element_bytes],
    )
    layout = Layout(
        workload=workload,
        profile=load_profile("cpu-2core"),
        sequence_parallel=1,
        pipeline_parallel=stages,
        virtual_stages=virtual_stages,
        group_subsequences=group or len(lengths),
        lengths=lengths,
        kv_block_tokens=kv_block_tokens,
        kv_sets=2 if mixed else 1,
        head_alone=head_alone,
    )

    def choose(problem: StageProblem) -> StageFates:
        known = problem.shapes[0].units
        names = tuple(name for name in recompute if name in known)
        return uniform(problem, Fate(recompute=names), lambda part, index: share)

    plan = replace(plan_of(layout, choose), fetch_ahead=fetch_ahead)
    if not msp:
        return plan
    found = lendings(stages, stages * virtual_stages, len(lengths), equal_slices(lengths))
    return replace(plan, lendings=found)


def equal_slices(lengths: tuple[int, ...]) -> Cut:
    def cut(part: int, index: int, ranks: int) -> tuple[int, ...] | None:
        tokens, rest = divmod(lengths[index], ranks)
        return tuple(tokens + (number < rest) for number in range(ranks)) if tokens else None

    return cut


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Loss and gradients by stage parameter name."""

    loss: float
    gradients: dict[str, Tensor]
    counters: list[StepCounters]
    engines: list[Engine]


def build_engines(plan: Plan, weights: dict[str, Tensor], dtype: torch.dtype) -> list[Engine]:
    """An engine per stage, connected in this process, its gradients zero."""
    schedule = build_schedule(plan)
    check_schedule(schedule)
    network = InProcessNetwork(plan.pipeline_parallel)
    engines = []
    for rank in range(plan.pipeline_parallel):
        stage_plan = plan.stages[rank]
        mine = StageWeights(
            plan.model, stage_plan.layers, weights, CPU, dtype, head=stage_plan.head
        )
        transport = network.transport(rank)
        stage = Stage(plan, rank, mine, Runtime(device=CPU, dtype=dtype), transport)
        engines.append(Engine(schedule, stage, transport))
    return engines


def run_pipeline(
    plan: Plan, weights: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype = torch.float64
) -> Outcome:
    """All stages in this process, through the in-process transport."""
    engines = build_engines(plan, weights, dtype)
    counters = run_together(engines, tokens)
    gradients = {
        name: engine.stage.weights[name].gradient
        for engine in engines
        for name in engine.stage.weights.names()
    }
    loss = sum(counter.loss for counter in counters)
    return Outcome(loss=loss, gradients=gradients, counters=counters, engines=engines)


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
        for name, parts in stage_weight_names(model, range(model.layers), True).items()
    }
    return total, gradients
