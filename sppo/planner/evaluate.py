"""A layout and the decisions of its tensors make a plan, with its simulated times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sppo.cost_model.plan_costs import simulate_plan
from sppo.memory_model.msp import MspRole, Share
from sppo.memory_model.stage_memory import StageDecisions
from sppo.plan.layout import layout_fields
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan, StagePlan
from sppo.plan.prediction import Prediction
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.layouts.timed_layout import TimedLayout

Choose = Callable[[StageProblem], StageDecisions]


def stage_problem(layout: TimedLayout, stage: int) -> StageProblem:
    """The decisions that one stage of a layout has to make, with their costs and limits."""
    shapes = layout.stage_shapes(stage)
    slicing = layout.slicing
    return StageProblem(
        shapes=shapes,
        msp_roles=tuple(_msp_roles(layout, stage)),
        tokens=tuple(
            tuple(slicing.tokens_of(part, index, stage) for index in range(layout.subsequences))
            for part in layout.parts_of(stage)
        ),
        computes=layout.differing_computes(stage),
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
    """One-way connections of a rank: to both neighbours, and to the ranks of its MSP splits."""
    helpers = {rank for split in _splits(layout, stage) for rank in split.ranks} - {stage}
    return 2 * (min(2, layout.pipeline_parallel - 1) + len(helpers))


def _splits(layout: TimedLayout, stage: int) -> list[MspSplit]:
    """The MSP splits in which a stage is owner or helper."""
    return [split for split in layout.msp_splits if stage in split.ranks]


def _msp_roles(layout: TimedLayout, stage: int) -> Iterator[MspRole]:
    """The MSP splits of a stage as its memory model needs them."""
    parts = layout.parts_of(stage)
    for split in _splits(layout, stage):
        place = split.ranks.index(stage)
        first, last = split.subsequences[0], split.subsequences[-1]
        yield MspRole(
            shape=layout.shapes[split.part],
            helper=stage != split.part % layout.pipeline_parallel,
            virtual=parts.index(split.part),
            start=layout.starts_tokens[first],
            end=layout.starts_tokens[last] + layout.lengths_tokens[last],
            first=first,
            shares=tuple(
                Share(sum(lengths[:place]), lengths[place], sum(lengths[place + 1 :]))
                for lengths in split.lengths_tokens
            ),
            ranks=len(split.ranks),
            recompute=split.recompute_units,
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
