"""A layout and the decisions of its tensors make a plan, with its simulated times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sppo.cost_model.plan_costs import simulate_plan
from sppo.memory_model.decisions import StageDecisions
from sppo.plan.layout import layout_fields
from sppo.plan.plan import Plan, Prediction, StageMemory, StagePlan
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


def plan_of(layout: TimedLayout, choose: Choose) -> Plan:
    """The plan of a layout: decisions of `choose` for every stage, then the simulation.

    Raises LayoutDoesNotFit if a stage does not fit its device or host memory.
    """
    plan = unpredicted_plan(layout, choose)
    simulation = simulate_plan(plan, layout.profile)
    prediction = Prediction(
        makespan_seconds=simulation.makespan / 1e9 + layout.reduction_seconds,
        reduction_seconds=layout.reduction_seconds,
        bubble_share=simulation.bubble_share,
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
    )
    return replace(plan, prediction=prediction)


def unpredicted_plan(layout: TimedLayout, choose: Choose) -> Plan:
    """The same without the simulation."""
    chosen: dict[StageKind, tuple[StageDecisions, StageMemory]] = {}
    stages: list[StagePlan] = []
    for stage in range(layout.pipeline_parallel):
        problem = stage_problem(layout, stage)
        key = stage_kind(problem)
        if key not in chosen:
            problem.require_room()
            decisions = choose(problem)
            chosen[key] = decisions, problem.memory(decisions)
        stages.append(problem.stage_plan(*chosen[key]))
    workload, profile = layout.workload, layout.profile
    return Plan(
        workload=workload.name,
        model=workload.model,
        sequence_tokens=workload.sequence_tokens,
        sequences_per_step=workload.sequences_per_step,
        element_bytes=workload.element_bytes,
        hardware=profile.name,
        stages=tuple(stages),
        fetch_ahead=1 if profile.overlapped_copies else 0,
        **layout_fields(layout),
    )
