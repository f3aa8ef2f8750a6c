"""A layout and the decisions of its tensors make a plan, with its simulated times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sppo.cost_model.plan_costs import simulate_plan
from sppo.memory_model.decisions import StageDecisions
from sppo.plan.layout import layout_fields
from sppo.plan.plan import Plan, Prediction, StagePlan
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.layouts.timed_layout import TimedLayout

Choose = Callable[[StageProblem], StageDecisions]


def stage_problem(layout: TimedLayout, stage: int) -> StageProblem:
    """The decisions that one stage of a layout has to make, with their costs and limits."""
    return StageProblem(
        layout=layout,
        stage=stage,
        chunks=layout.shapes,
        workload=layout.workload,
        profile=layout.profile,
        costs=tuple(layout.part_costs(shape) for shape in layout.stage_shapes(stage)),
        memo=layout.memo,
    )


def plan_of(layout: TimedLayout, choose: Choose) -> Plan:
    """The plan of a layout: decisions of `choose` for every stage, then the simulation.

    Raises LayoutDoesNotFit if a stage does not fit its device or host memory.
    """
    chosen: dict[tuple[object, ...], StageDecisions] = {}
    stages: list[StagePlan] = []
    for stage in range(layout.pipeline_parallel):
        problem = stage_problem(layout, stage)
        # Mixed sequences and MSP make every stage different.
        different = stage if layout.kv_sets > 1 or layout.msp_splits else 0
        key = (different, *((len(s.layers), s.first, s.head) for s in problem.shapes))
        if key not in chosen:
            problem.require_room()
            chosen[key] = choose(problem)
        stages.append(problem.stage_plan(chosen[key]))
    workload, profile = layout.workload, layout.profile
    plan = Plan(
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
    simulation = simulate_plan(plan, profile)
    prediction = Prediction(
        makespan_seconds=simulation.makespan / 1e9 + layout.reduction_seconds,
        reduction_seconds=layout.reduction_seconds,
        bubble_share=simulation.bubble_share,
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
    )
    return replace(plan, prediction=prediction)
