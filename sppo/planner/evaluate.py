"""A layout and the decisions of its tensors make a plan, with its simulated times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sppo.config.hardware import Hardware
from sppo.cost_model.plan_costs import simulate_plan
from sppo.memory_model.msp import MspRole, Share
from sppo.memory_model.stage_memory import StageDecisions
from sppo.plan.plan import Plan, StagePlan
from sppo.plan.prediction import Prediction
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.layouts.timed_layout import TimedLayout

Choose = Callable[[StageProblem], StageDecisions]


def stage_problem(layout: TimedLayout, stage: int) -> StageProblem:
    """What one stage of a layout has to decide."""
    shapes = layout.shapes[stage :: layout.pipeline_parallel]
    slicing = layout.slicing
    return StageProblem(
        shapes=shapes,
        msp_roles=tuple(stage_msp_roles(layout, stage)),
        tokens=tuple(
            tuple(slicing.tokens_of(part, index, stage) for index in range(layout.subsequences))
            for part in layout.parts_of(stage)
        ),
        computes=layout.computes(stage, differing=True),
        kv_sets=layout.kv_sets,
        sequences=layout.sequences,
        memo=layout.memo,
        clones=layout.workload.cluster.device == "cpu",
        starts=layout.starts_tokens,
        lengths=layout.lengths_tokens,
        messages_ahead=layout.receive_ahead,
        connections=_connections(layout, stage),
        profile=layout.profile,
        costs=tuple(layout.part_costs(shape) for shape in shapes),
        device_limit_bytes=layout.workload.device_memory_bytes,
        host_limit_bytes=layout.workload.host_memory_bytes,
        kv_block_tokens=layout.kv_block_tokens,
    )


def _connections(layout: TimedLayout, stage: int) -> int:
    """One-way connections of a rank: to both neighbours, and to those it shares slices with."""
    helpers = {
        rank
        for msp_split in layout.msp_splits
        if stage in msp_split.ranks
        for rank in msp_split.ranks
    }
    return 2 * (min(2, layout.pipeline_parallel - 1) + len(helpers - {stage}))


def stage_msp_roles(layout: TimedLayout, stage: int) -> Iterator[MspRole]:
    """What a stage lends and borrows."""
    parts = layout.parts_of(stage)
    for msp_split in layout.msp_splits:
        if stage not in msp_split.ranks:
            continue
        place = msp_split.ranks.index(stage)
        first, last = msp_split.subsequences[0], msp_split.subsequences[-1]
        yield MspRole(
            shape=layout.shapes[msp_split.part],
            helper=stage != msp_split.part % layout.pipeline_parallel,
            virtual=parts.index(msp_split.part),
            start=layout.starts_tokens[first],
            end=layout.starts_tokens[last] + layout.lengths_tokens[last],
            first=first,
            shares=tuple(
                Share(sum(lengths[:place]), lengths[place], sum(lengths[place + 1 :]))
                for lengths in msp_split.lengths_tokens
            ),
            ranks=len(msp_split.ranks),
            recompute=msp_split.recompute_units,
        )


def plan_of(layout: TimedLayout, choose: Choose) -> Plan:
    """Decisions for every stage, then the simulation. Raises Short."""
    chosen: dict[tuple[object, ...], StageDecisions] = {}
    stages: list[StagePlan] = []
    for stage in range(layout.pipeline_parallel):
        problem = stage_problem(layout, stage)
        # How far a stage runs ahead differs, and what it lends and borrows.
        mixed = stage if layout.kv_sets > 1 or layout.msp_splits else 0
        alike = (mixed, *((len(s.layers), s.first, s.head) for s in problem.shapes))
        if alike not in chosen:
            problem.require_room()
            chosen[alike] = choose(problem)
        stages.append(problem.stage_plan(chosen[alike]))
    workload, profile = layout.workload, layout.profile
    plan = Plan(
        workload=workload.name,
        model=workload.model,
        sequence_tokens=workload.sequence_tokens,
        sequences_per_step=workload.sequences_per_step,
        element_bytes=workload.element_bytes,
        hardware=profile.name,
        layout=layout.layout,
        stages=tuple(stages),
        fetch_ahead=1 if profile.overlapped_copies else 0,
    )
    return replace(plan, prediction=predict(plan, profile, layout.reduction_seconds))


def predict(plan: Plan, profile: Hardware, reduction_seconds: float) -> Prediction:
    """What the plan's step takes by its simulation, and the sums over replicas behind it."""
    simulation = simulate_plan(plan, profile)
    return Prediction(
        makespan_seconds=simulation.makespan / 1e9 + reduction_seconds,
        reduction_seconds=reduction_seconds,
        bubble_share=simulation.bubble_share,
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
    )
