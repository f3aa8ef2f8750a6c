"""A layout and the decisions of its tensors make a plan, with its simulated times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sppo.cost_model.plan_costs import simulate_plan
from sppo.memory_model.decisions import StageDecisions
from sppo.plan.layout import layout_fields
from sppo.plan.plan import Plan, Prediction, StageMemory
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.layouts.timed_layout import TimedLayout

Choose = Callable[[StageProblem], StageDecisions]

StageKind = tuple[object, ...]
"""Stages of a layout with the same kind have the same problem, and so the same decisions."""


def stage_problem(layout: TimedLayout, stage: int) -> StageProblem:
    """The decisions that one stage of a layout has to make, with their costs and limits."""
    return StageProblem(
        layout=layout,
        stage=stage,
        chunks=layout.shapes,
        workload=layout.workload,
        profile=layout.profile,
        costs=tuple(layout.part_costs(shape) for shape in layout.stage_shapes(stage)),
        memo=layout.stage_memo,
    )


def stage_kind(problem: StageProblem) -> StageKind:
    """Mixed sequences and MSP make every stage different."""
    layout = problem.layout
    different = problem.stage if layout.kv_sets > 1 or layout.msp_splits else 0
    return (different, *((len(s.layers), s.first, s.head) for s in problem.shapes))


@dataclass(frozen=True, kw_only=True)
class DecidedStage:
    """A stage with its decisions, which fit."""

    problem: StageProblem
    decisions: StageDecisions
    memory: StageMemory


def decided_stages(layout: TimedLayout, choose: Choose) -> list[DecidedStage]:
    """The decisions of `choose` for every stage.

    Raises LayoutDoesNotFit if a stage does not fit its device or host memory.
    """
    chosen: dict[StageKind, tuple[StageDecisions, StageMemory]] = {}
    stages = []
    for stage in range(layout.pipeline_parallel):
        problem = stage_problem(layout, stage)
        key = stage_kind(problem)
        if key not in chosen:
            problem.require_room()
            decisions = choose(problem)
            chosen[key] = decisions, problem.memory(decisions)
            problem.require_fit(chosen[key][1])
        decisions, memory = chosen[key]
        stages.append(DecidedStage(problem=problem, decisions=decisions, memory=memory))
    return stages


def plan_of(layout: TimedLayout, choose: Choose) -> Plan:
    """The plan of a layout: decisions of `choose` for every stage, then the simulation.

    Raises LayoutDoesNotFit if a stage does not fit its device or host memory.
    """
    return simulated_plan(layout, decided_stages(layout, choose))


def simulated_plan(layout: TimedLayout, stages: Sequence[DecidedStage]) -> Plan:
    """The plan of decided stages, with its simulation."""
    plan = unpredicted_plan(layout, stages)
    simulation = simulate_plan(plan, layout.profile)
    prediction = Prediction(
        makespan_seconds=simulation.makespan / 1e9 + layout.reduction_seconds,
        reduction_seconds=layout.reduction_seconds,
        bubble_share=simulation.bubble_share,
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
    )
    return replace(plan, prediction=prediction)


def unpredicted_plan(layout: TimedLayout, stages: Sequence[DecidedStage]) -> Plan:
    """The same without the simulation."""
    workload, profile = layout.workload, layout.profile
    return Plan(
        workload=workload.name,
        model=workload.model,
        sequence_tokens=workload.sequence_tokens,
        sequences_per_step=workload.sequences_per_step,
        element_bytes=workload.element_bytes,
        hardware=profile.name,
        stages=tuple(stage.problem.stage_plan(stage.decisions, stage.memory) for stage in stages),
        fetch_ahead=1 if profile.overlapped_copies else 0,
        **layout_fields(layout),
    )
