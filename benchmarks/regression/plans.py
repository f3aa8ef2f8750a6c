"""A plan and its simulated step as plain values. All that is read of the planner is read here.

Names in the values are the file's own, so that they outlive those of classes and modules.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache

from benchmarks.regression.cases import PlanCase, UnitCase
from benchmarks.regression.differences import Tree, Values
from benchmarks.reporting.simulated_step import of_unit_costs
from sppo.config.errors import Infeasible
from sppo.config.hardware import Hardware, load_hardware
from sppo.config.workload import Workload
from sppo.cost_model.collectives import step_collectives
from sppo.cost_model.flops import step_flops
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import plan_costs, stage_kv_copied_bytes, stage_offloaded_bytes
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.cost_table import PartCosts, SliceCosts
from sppo.schedule.dependencies import Schedule, peer_of
from sppo.schedule.instructions import SENDS
from sppo.schedule.simulate import message_cost, simulate
from sppo.schedule.simulation import Cause, Event

MEMORY_TERMS = (
    "weights",
    "gradients",
    "optimizer",
    "kv",
    "dkv",
    "kept",
    "kept_peak",
    "staging",
    "constants",
    "temporary",
    "host",
    "kv_host",
    "activations_peak",
    "total",
)

DIGEST_CHARACTERS = 16


def plan_values(case: PlanCase) -> Values:
    """Everything that the planner decides and predicts of a case, but its words."""
    return _plan_values(case.workload, SolverOptions(**case.options))


@cache
def _plan_values(workload: Workload, options: SolverOptions) -> Values:
    profile = load_hardware(workload.cluster.hardware)
    needed = step_flops(workload)
    values: Values = {"flops": {"dense": needed.dense, "attention_causal": needed.attention_causal}}
    try:
        plan = solve(workload, profile, options)
    except Infeasible:
        return {**values, "status": "infeasible"}
    return {
        **values,
        "status": "ok",
        "layout": _layout(plan),
        "memory_bytes": _memory(plan),
        "decisions": _decisions(plan),
        "lendings": _lendings(plan.msp_splits),
        "prediction": _prediction(plan),
        "simulation": _simulation(plan, profile),
    }


def _layout(plan: Plan) -> Values:
    return {
        "sequence_parallel": plan.sequence_parallel,
        "pipeline_parallel": plan.pipeline_parallel,
        "data_parallel": plan.data_parallel,
        "virtual_stages": plan.virtual_stages,
        "group_subsequences": plan.group_subsequences,
        "kv_block_tokens": plan.kv_block_tokens,
        "kv_sets": plan.kv_sets,
        "head_alone": plan.head_alone,
        "subsequences": plan.subsequences,
        "lengths_tokens": list(plan.lengths_tokens),
        "layers_by_part": [len(part.layer_range) for part in plan.parts],
        "fetch_ahead": plan.fetch_ahead,
        "receive_ahead": plan.receive_ahead,
    }


def _memory(plan: Plan) -> Values:
    """By stage."""
    memories = [stage.memory for stage in plan.stages]
    terms = {term: [getattr(memory, term) for memory in memories] for term in MEMORY_TERMS}
    return {**terms, "untracked": [memory.untracked.total for memory in memories]}


def _decisions(plan: Plan) -> Values:
    """How often a stage offloads or recomputes each saved tensor, and a digest of exactly which.

    The counts are over layers and subsequences; what is recomputed is so in all layers of a part.
    """
    offloaded = [Counter[str]() for _ in plan.stages]
    recomputed = [Counter[str]() for _ in plan.stages]
    for number, stage in enumerate(plan.stages):
        for part in stage.parts:
            for units in part.offload_units:
                offloaded[number].update(name for _, name in units)
            for names in part.recompute_units:
                for name in names:
                    recomputed[number][name] += len(part.layer_range)
    exactly: Tree = [
        [
            [sorted([layer, name] for layer, name in units) for units in part.offload_units],
            [sorted(names) for names in part.recompute_units],
        ]
        for part in plan.parts
    ]
    return {
        "offloaded": _by_name(offloaded),
        "recomputed": _by_name(recomputed),
        "offload_share": [stage.offload_share for stage in plan.stages],
        "digest": _digest(exactly),
    }


def _by_name(stages: list[Counter[str]]) -> Values:
    names = {name for stage in stages for name in stage}
    return {name: [stage[name] for stage in stages] for name in names}


def _lendings(msp_splits: tuple[MspSplit, ...]) -> Values:
    exactly: Tree = [
        [
            msp_split.part,
            msp_split.fills,
            list(msp_split.subsequences),
            list(msp_split.ranks),
            [list(lengths) for lengths in msp_split.lengths_tokens],
            sorted(msp_split.recompute_units),
        ]
        for msp_split in msp_splits
    ]
    return {
        "count": len(msp_splits),
        "at_the_begin": sum(msp_split.fills for msp_split in msp_splits),
        "subsequences": sum(len(msp_split.subsequences) for msp_split in msp_splits),
        "slices": sum(len(row) for msp_split in msp_splits for row in msp_split.lengths_tokens),
        "recomputed_units": sum(len(msp_split.recompute_units) for msp_split in msp_splits),
        "digest": _digest(exactly),
    }


def _prediction(plan: Plan) -> Values:
    """What the plan says of its step; lists are by stage."""
    shared = [step_collectives(plan, stage) for stage in range(len(plan.stages))]
    stages = range(len(plan.stages))
    return {
        "makespan_seconds": plan.makespan_seconds,
        "reduction_seconds": plan.reduction_seconds,
        "bubble_share": plan.bubble_share,
        "messages": list(plan.predicted.messages),
        "message_bytes": list(plan.predicted.message_bytes),
        "collective_calls": [stage.calls for stage in shared],
        "collective_bytes": [stage.bytes for stage in shared],
        "offloaded_bytes": [stage_offloaded_bytes(plan, stage) for stage in stages],
        "kv_copied_bytes": [stage_kv_copied_bytes(plan, stage) for stage in stages],
    }


def _simulation(plan: Plan, profile: Hardware) -> Values:
    """The step of the very schedule that would run; lists are by stage, times in nanoseconds."""
    schedule = build_schedule(plan)
    check_schedule(schedule)
    costs, slice_costs = plan_costs(plan, profile), plan_slice_costs(plan, profile)
    step = simulate(schedule, costs, slice_costs)
    return {
        "makespan_ns": step.makespan,
        "forward_makespan_ns": step.forward_makespan,
        "bubble_share": step.bubble_share,
        "busy_ns": list(step.busy),
        "kept_peak_bytes": list(step.kept_peak_bytes),
        "host_peak_bytes": list(step.host_peak_bytes),
        "messages": list(step.messages),
        "message_bytes": list(step.message_bytes),
        "link_bytes": _link_bytes(schedule, costs, slice_costs),
        "exposed_copies_ns": list(step.exposed_copies),
        "instructions": [len(instructions) for instructions in schedule.stages],
        "late_offload_waits_ns": list(step.waited(Cause.OFFLOAD)),
        "timeline_digest": _timeline_digest([*step.events, *step.transfers]),
    }


def _link_bytes(schedule: Schedule, costs: list[PartCosts], slice_costs: SliceCosts) -> Values:
    """Bytes that one rank of a stage sends to another stage: "0 > 1"."""
    sizes = Counter[str]()
    for stage, instructions in enumerate(schedule.stages):
        for instruction in instructions:
            if instruction.op in SENDS:
                link = f"{stage} > {peer_of(schedule, instruction)}"
                sizes[link] += message_cost(instruction, costs, slice_costs).bytes
    return dict(sizes)


def _timeline_digest(events: list[Event]) -> str:
    """Of when every compute, copy and message begins and ends; not of what they are called."""
    return _digest(sorted([event.stage, event.lane, event.start, event.end] for event in events))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:DIGEST_CHARACTERS]


def unit_values(case: UnitCase) -> Values:
    """A pipeline in unit costs, without a model."""
    step = of_unit_costs(
        pipeline_parallel=case.pipeline_parallel,
        subsequences=case.subsequences,
        virtual_stages=case.virtual_stages,
        sequences=case.sequences,
        msp=case.msp,
    )
    return {
        "makespan": step.makespan,
        "forward_makespan": step.forward_makespan,
        "bubble_share": step.bubble_share,
        "bubble_ratio_paper": step.bubble_ratio_paper,
        "busy": list(step.busy_per_stage),
        "kept_peak": list(step.kept_peak_bytes_per_stage),
        "messages": list(step.messages),
    }
