"""A plan and its simulated step as plain values. No other module reads the planner for them.

The names of layout and memory are those of the plan's own JSON; all others are the file's own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import astuple, replace
from itertools import product
from typing import TypeAlias

import msgspec

from benchmarks.regression.check.differences import Values
from benchmarks.reporting.simulated_step import Simulated
from sppo.config.errors import Infeasible
from sppo.config.hardware import Hardware, load_hardware
from sppo.config.workload import Workload
from sppo.cost_model.collectives import step_collectives
from sppo.cost_model.flops import step_flops
from sppo.cost_model.hosted_kv import stage_kv_copied_bytes
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import plan_costs, stage_offloaded_bytes
from sppo.plan.blocks import block_of
from sppo.plan.layout import layout_fields
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.cost_table import PartCosts, SliceCosts
from sppo.schedule.dependencies import Schedule, peer_of
from sppo.schedule.instructions import SENDS, Op
from sppo.schedule.simulate import message_cost, simulate
from sppo.schedule.simulation import Cause, Event

DIGEST_CHARACTERS = 16

COPIES = {Op.OFFLOAD: "D2H", Op.RELOAD: "H2D"}
"""The link of each instruction that copies saved tensors."""


PlanTask: TypeAlias = tuple[Workload, SolverOptions]
"""What is planned, and the solver's options that are fixed."""


def plan_values(task: PlanTask) -> Values:
    """All decisions and predictions of the planner, except its words. Raises ValueError."""
    workload, options = task
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
        "lendings": _msp_splits(plan.msp_splits),
        "prediction": _prediction(plan),
        "simulation": _simulation(plan, profile),
    }


def _layout(plan: Plan) -> Values:
    layout = layout_fields(plan)
    del layout["msp_splits"]
    if plan.context_parallel == 1:
        del layout["context_parallel"]
    if not plan.sharded_weights:
        del layout["sharded_weights"]
    if plan.exchange_pieces == 1:
        del layout["exchange_pieces"]
    return {
        **layout,
        "lengths_tokens": list(plan.lengths_tokens),
        "subsequences": plan.subsequences,
        "layers_by_part": [len(part.layer_range) for part in plan.parts],
        "fetch_ahead": plan.fetch_ahead,
        "receive_ahead": plan.receive_ahead,
    }


def _memory(plan: Plan) -> Values:
    """By stage."""
    terms = [
        {
            **msgspec.to_builtins(stage.memory),
            "activations_peak": stage.memory.activations_peak,
            "total": stage.memory.total,
            "untracked": stage.memory.untracked.total,
        }
        for stage in plan.stages
    ]
    return {name: [stage[name] for stage in terms] for name in terms[0]}


def _decisions(plan: Plan) -> Values:
    """How often a stage offloads or recomputes each saved tensor, and a digest of exactly which.

    The counts are over layers and subsequences. A tensor is recomputed in all layers of a model
    chunk.
    """
    offloaded = [Counter[str]() for _ in plan.stages]
    recomputed = [Counter[str]() for _ in plan.stages]
    for number, stage in enumerate(plan.stages):
        for part in stage.parts:
            for keys in part.offload_units:
                offloaded[number].update(name for _, name in keys)
            for names in part.recompute_units:
                recomputed[number].update(dict.fromkeys(names, len(part.layer_range)))
    exactly = [
        [
            [sorted([layer, name] for layer, name in keys) for keys in part.offload_units],
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


def _msp_splits(splits: tuple[MspSplit, ...]) -> Values:
    exactly = [
        astuple(replace(split, recompute_units=tuple(sorted(split.recompute_units))))
        for split in splits
    ]
    return {
        "count": len(splits),
        "at_the_begin": sum(split.fills for split in splits),
        "subsequences": sum(len(split.subsequences) for split in splits),
        "slices": sum(len(row) for split in splits for row in split.lengths_tokens),
        "recomputed_units": sum(len(split.recompute_units) for split in splits),
        "digest": _digest(exactly),
    }


def _prediction(plan: Plan) -> Values:
    """The plan's own prediction of its step; lists are by stage."""
    stages = range(len(plan.stages))
    collectives = [step_collectives(plan, stage) for stage in stages]
    return {
        "makespan_seconds": plan.makespan_seconds,
        "reduction_seconds": plan.reduction_seconds,
        "bubble_share": plan.bubble_share,
        "messages": list(plan.predicted.messages),
        "message_bytes": list(plan.predicted.message_bytes),
        "collective_calls": [stage.calls for stage in collectives],
        "collective_bytes": [stage.bytes for stage in collectives],
        "offloaded_bytes": [stage_offloaded_bytes(plan, stage) for stage in stages],
        "kv_copied_bytes": [stage_kv_copied_bytes(plan, stage) for stage in stages],
        "recomputed_flops": _recomputed_flops(plan),
    }


def _recomputed_flops(plan: Plan) -> list[int]:
    """By stage: products and mixers that the backwards of a step recompute, over all its ranks."""
    block = block_of(plan.model)
    tensors = block.saved_tensors_by_name
    flops = [0 for _ in plan.stages]
    for part, subsequence in product(range(len(plan.parts)), range(plan.subsequences)):
        layers = len(plan.parts[part].layer_range)
        for rank, offset, tokens in plan.slices(part, subsequence):
            start = plan.starts_tokens[subsequence] + offset
            for name in plan.recomputed(part, subsequence, rank):
                recipe = tensors[name].recipe
                if recipe == "mixer":
                    flops[rank] += layers * block.mixer_flops(start, tokens)
                elif recipe == "linear":
                    flops[rank] += layers * tensors[name].dense_flops * tokens
    return [plan.sequences * count for count in flops]


def _simulation(plan: Plan, profile: Hardware) -> Values:
    """The step of the schedule that would run; lists are by stage, times in nanoseconds."""
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
    """Bytes of one rank by link: messages from stage to stage ("0 > 1"), copies D2H and H2D.

    Copies of hosted K and V are part of the computes: `prediction.kv_copied_bytes`.
    """
    sizes = Counter[str]()
    copies: Values = {link: [0 for _ in schedule.stages] for link in COPIES.values()}
    for stage, instructions in enumerate(schedule.stages):
        for instruction in instructions:
            if instruction.op in SENDS:
                link = f"{stage} > {peer_of(schedule, instruction)}"
                sizes[link] += message_cost(instruction, costs, slice_costs).bytes
            elif instruction.op in COPIES:
                size = costs[instruction.part].offloaded_bytes[instruction.subsequence]
                copies[COPIES[instruction.op]][stage] += size
    return {**sizes, **copies}


def _timeline_digest(events: list[Event]) -> str:
    """Of begin and end of every compute, copy and message; names are no part of the digest."""
    return _digest(sorted([event.stage, event.lane, event.start, event.end] for event in events))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:DIGEST_CHARACTERS]


def unit_values(step: Simulated) -> Values:
    """A simulated pipeline in unit costs, without a model."""
    return {
        "makespan": step.makespan,
        "forward_makespan": step.forward_makespan,
        "bubble_share": step.bubble_share,
        "bubble_ratio_paper": step.bubble_ratio_paper,
        "busy": list(step.busy_per_stage),
        "kept_peak": list(step.kept_peak_bytes_per_stage),
        "messages": list(step.messages),
    }
