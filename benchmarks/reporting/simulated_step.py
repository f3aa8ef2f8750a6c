"""A simulated step as numbers for people and programs: of a plan, or of a bare pipeline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sppo.config.hardware import Hardware, load_hardware
from sppo.config.models import gpt
from sppo.config.sizes import format_bytes
from sppo.config.workload import Cluster, Workload
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import plan_costs
from sppo.plan.msp import msp_splits
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.cost_table import PartCosts, SliceCosts, unit_costs, unit_slice_costs
from sppo.schedule.dependencies import Schedule
from sppo.schedule.simulate import simulate

UNIT_COSTS = "unit costs"
COST_UNIT = "cost units"
SECONDS = "seconds"
BYTES = "bytes"
KEPT_UNIT = "kept activations of one subsequence on one stage"


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulated forward and backward, without the optimizer.

    Times are in `unit`: seconds, or cost units (one is the forward of a subsequence through a
    stage). Sizes are in `byte_unit`. Tuples have one entry per pipeline stage. `profile_kind` says
    where the rates come from: a profile is "measured" or "assumed", unit costs are neither.

    `bubble_share` is idle rank-time over ranks x makespan, `bubble_ratio_paper` idle over busy time
    (the paper's ratio, (PP - 1) / N for equal costs). `messages` and their bytes are what a stage
    sends. `exposed_transfer_seconds` is the time in which compute waits for nothing but a copy.
    """

    label: Literal["simulated"] = "simulated"
    workload: str
    hardware: str
    profile_kind: str
    unit: str
    byte_unit: str
    pipeline_parallel: int
    sequence_parallel: int
    data_parallel: int
    virtual_stages: int
    subsequences: int
    sequences: int
    forward_makespan: float
    makespan: float
    bubble_share: float
    bubble_ratio_paper: float
    busy_per_stage: tuple[float, ...]
    peak_bytes_per_stage: tuple[float, ...]
    kept_peak_bytes_per_stage: tuple[float, ...]
    host_peak_bytes_per_stage: tuple[float, ...]
    exposed_transfer_seconds: tuple[float, ...]
    messages: tuple[int, ...]
    message_bytes: tuple[int, ...]


def of_plan(plan: Plan, profile: Hardware) -> Simulated:
    """The planned step on that hardware; peaks are the plan's memory model, in bytes."""
    return _simulated(
        plan,
        plan_costs(plan, profile),
        hardware=profile.name,
        profile_kind=profile.kind,
        peaks=tuple(stage.memory.total for stage in plan.stages),
        time_divisor=10**9,
        slice_costs=plan_slice_costs(plan, profile),
    )


def of_unit_costs(
    *,
    pipeline_parallel: int,
    subsequences: int,
    virtual_stages: int = 1,
    sequences: int = 1,
    msp: bool = False,
) -> Simulated:
    """A pipeline without a model: a forward through a stage costs one unit, a backward two.

    With V parts a stage, each part costs 1 / V of it, and one of m slices 1 / m. Transfers are
    free. Raises ValueError.
    """
    plan = uniform_plan(
        pipeline_parallel=pipeline_parallel,
        subsequences=subsequences,
        virtual_stages=virtual_stages,
        sequences=sequences,
        msp=msp,
    )
    unit = math.lcm(*range(1, pipeline_parallel + 1)) if msp else 1
    costs = [unit_costs(subsequences, unit)] * (pipeline_parallel * virtual_stages)
    return _simulated(
        plan,
        costs,
        hardware=UNIT_COSTS,
        profile_kind=UNIT_COSTS,
        peaks=None,
        time_divisor=virtual_stages * unit,
        slice_costs=unit_slice_costs(plan.msp_splits, unit),
    )


def uniform_plan(
    *,
    pipeline_parallel: int,
    subsequences: int,
    virtual_stages: int = 1,
    sequences: int = 1,
    msp: bool = False,
) -> Plan:
    """A plan whose only point is its schedule: one tiny layer a part, PP tokens a subsequence."""
    workload = Workload(
        name=UNIT_COSTS,
        model=gpt(
            "unit", layers=pipeline_parallel * virtual_stages, hidden=2, heads=1, vocabulary=1
        ),
        cluster=Cluster(
            hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=pipeline_parallel
        ),
        sequence_tokens=max(2, subsequences * pipeline_parallel),
        sequences_per_step=sequences,
    )
    options = SolverOptions(
        pipeline_parallel=pipeline_parallel,
        subsequences=subsequences,
        virtual_stages=virtual_stages,
        group_subsequences=subsequences,
        head_alone=False,
        policy="no-offload",
        cut="equal",
    )
    plan = solve(workload, load_hardware("cpu-2core"), options)
    if not msp:
        return plan
    if plan.kv_sets > 1:
        raise ValueError(
            "sequences that are mixed fill the pipeline themselves: leave --msp out, or take "
            "--sequences-per-step 1"
        )

    def cut(part: int, index: int, ranks: int) -> tuple[int, ...]:
        return (*[1] * (ranks - 1), plan.lengths_tokens[index] - ranks + 1)

    parts = pipeline_parallel * virtual_stages
    slice_costs = msp_splits(pipeline_parallel, parts, subsequences, cut)
    return replace(plan, layout=replace(plan.layout, msp_splits=slice_costs), prediction=None)


def _simulated(
    plan: Plan,
    costs: Sequence[PartCosts],
    *,
    hardware: str,
    profile_kind: str,
    peaks: tuple[int, ...] | None,
    time_divisor: int,
    slice_costs: SliceCosts,
) -> Simulated:
    schedule: Schedule = build_schedule(plan)
    check_schedule(schedule)
    simulation = simulate(schedule, costs, slice_costs)
    total = len(simulation.busy) * simulation.makespan
    busy = sum(simulation.busy)

    def times(values: Sequence[int]) -> tuple[float, ...]:
        return tuple(_ratio(value, time_divisor) for value in values)

    def sizes(values: Sequence[int]) -> tuple[float, ...]:
        return tuple(values) if peaks else times(values)

    kept = sizes(simulation.kept_peak_bytes)
    return Simulated(
        workload=plan.workload,
        hardware=hardware,
        profile_kind=profile_kind,
        unit=SECONDS if peaks else COST_UNIT,
        byte_unit=BYTES if peaks else KEPT_UNIT,
        pipeline_parallel=plan.pipeline_parallel,
        sequence_parallel=plan.sequence_parallel,
        data_parallel=plan.data_parallel,
        virtual_stages=plan.virtual_stages,
        subsequences=plan.subsequences,
        sequences=plan.sequences,
        forward_makespan=_ratio(simulation.forward_makespan, time_divisor),
        makespan=_ratio(simulation.makespan, time_divisor),
        bubble_share=simulation.bubble_share,
        bubble_ratio_paper=(total - busy) / busy,
        busy_per_stage=times(simulation.busy),
        peak_bytes_per_stage=peaks or kept,
        kept_peak_bytes_per_stage=kept,
        host_peak_bytes_per_stage=sizes(simulation.host_peak_bytes),
        exposed_transfer_seconds=times(simulation.exposed_copies),
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
    )


def _ratio(value: int, divisor: int) -> float:
    """An exact integer where it is one: cost units read as 11, not 11.0."""
    return value // divisor if value % divisor == 0 else value / divisor


def text(step: Simulated) -> str:
    """Two tables: the step, and its stages (like ones in one line)."""
    from tabulate import tabulate

    whole = [
        ("forward", _time(step, step.forward_makespan)),
        ("forward + backward", _time(step, step.makespan)),
        ("bubble share (idle / all)", f"{step.bubble_share:.1%}"),
        ("bubble ratio (idle / busy, the paper's)", f"{step.bubble_ratio_paper:.3f}"),
    ]
    headers = ("busy", "exposed copies", "device peak", "kept peak", "host peak", "sent")
    tables = [
        tabulate(rows, headers=titles, tablefmt="github", disable_numparse=True)
        for rows, titles in (
            (whole, ("simulated", "step")),
            (_stage_rows(step), ("simulated: stage", *headers)),
        )
    ]
    notes = [] if step.byte_unit == BYTES else [f"peaks in {step.byte_unit}"]
    return "\n\n".join([_head(step), *tables, *notes])


def _head(step: Simulated) -> str:
    layout = f"PP {step.pipeline_parallel}, parts a stage {step.virtual_stages}"
    if step.sequence_parallel > 1:
        layout = f"SP {step.sequence_parallel} x {layout}"
    if step.data_parallel > 1:
        layout = f"DP {step.data_parallel} x {layout}"
    where = f"{step.workload} on {step.hardware} ({step.profile_kind} profile)"
    if step.unit == COST_UNIT:
        where = "a pipeline in unit costs (no model, no hardware)"
    return f"{where}: {layout}, N {step.subsequences}, sequences a step {step.sequences}"


def _stage_rows(step: Simulated) -> list[tuple[str, ...]]:
    rows = [
        (
            _time(step, step.busy_per_stage[stage]),
            _time(step, step.exposed_transfer_seconds[stage]),
            _size(step, step.peak_bytes_per_stage[stage]),
            _size(step, step.kept_peak_bytes_per_stage[stage]),
            _size(step, step.host_peak_bytes_per_stage[stage]),
            f"{step.messages[stage]} messages, {_size(step, step.message_bytes[stage])}",
        )
        for stage in range(step.pipeline_parallel)
    ]
    merged = []
    for row, alike in itertools.groupby(enumerate(rows), key=lambda numbered: numbered[1]):
        stages = [stage for stage, _ in alike]
        name = str(stages[0]) if len(stages) == 1 else f"{stages[0]} .. {stages[-1]}"
        merged.append((name, *row))
    return merged


def _time(step: Simulated, value: float) -> str:
    return f"{value:.3f} s" if step.unit == SECONDS else f"{value:g} {step.unit}"


def _size(step: Simulated, value: float) -> str:
    return format_bytes(round(value)) if step.byte_unit == BYTES else f"{value:g}"
