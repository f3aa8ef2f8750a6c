"""A simulated step as numbers for people and programs, of a plan or of unit costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.reporting.text_table import rows_table
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
from sppo.schedule.simulate import simulate
from sppo.schedule.simulation import Simulation

UNIT_COSTS = "unit costs"
COST_UNIT = "cost units"
SECONDS = "seconds"
BYTES = "bytes"
KEPT_UNIT = "saved tensors of one subsequence on one stage"


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A simulated forward and backward, without the optimizer.

    Times are in `unit`: seconds, or cost units (one is the forward of a subsequence through a
    stage). Sizes are in `byte_unit`. Tuples have one entry per pipeline stage. `profile_kind`:
    "measured" or "assumed" for a profile, else unit costs.

    `bubble_share` is idle rank-time over ranks x makespan, `bubble_ratio_paper` idle over busy time
    (the paper's ratio, (PP - 1) / N for equal costs). `messages` and their bytes are those that a
    stage sends. `exposed_transfer_seconds` is the time in which compute waits only for a copy.
    """

    label: Literal["simulated"] = "simulated"
    workload: str
    hardware: str
    profile_kind: str
    unit: str
    byte_unit: str
    pipeline_parallel: int
    sequence_parallel: int
    ulysses_parallel: int
    context_parallel: int
    sharded_weights: bool
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


def checked_simulation(plan: Plan, profile: Hardware) -> Simulation:
    """The simulation of a plan whose schedule has been checked, in nanoseconds and bytes."""
    return _check_and_simulate(plan, plan_costs(plan, profile), plan_slice_costs(plan, profile))


def _check_and_simulate(
    plan: Plan, costs: Sequence[PartCosts], slice_costs: SliceCosts
) -> Simulation:
    schedule = build_schedule(plan)
    check_schedule(schedule)
    return simulate(schedule, costs, slice_costs)


def of_plan(plan: Plan, profile: Hardware) -> Simulated:
    """The planned step on that hardware. Peaks are those of the plan's memory model, in bytes."""
    simulation = checked_simulation(plan, profile)
    return _simulated(plan, simulation, profile=profile, time_divisor=10**9)


def of_unit_costs(
    *,
    pipeline_parallel: int,
    subsequences: int,
    virtual_stages: int = 1,
    sequences: int = 1,
    msp: bool = False,
) -> Simulated:
    """A pipeline without a model: a forward through a stage costs one unit, a backward two.

    With V chunks a stage, each chunk costs 1 / V of a stage. In an MSP split over m ranks each
    slice costs 1 / m. Transfers are free. Raises ValueError.
    """
    plan = _uniform_plan(pipeline_parallel, subsequences, virtual_stages, sequences)
    unit = 1
    if msp:
        plan = _with_msp(plan)
        unit = math.lcm(*range(1, pipeline_parallel + 1))
    costs = [unit_costs(subsequences, unit)] * (pipeline_parallel * virtual_stages)
    simulation = _check_and_simulate(plan, costs, unit_slice_costs(plan.msp_splits, unit))
    return _simulated(plan, simulation, profile=None, time_divisor=virtual_stages * unit)


def _uniform_plan(
    pipeline_parallel: int, subsequences: int, virtual_stages: int, sequences: int
) -> Plan:
    """A plan of which only the schedule counts: one tiny layer a chunk, PP tokens a subsequence."""
    layers = pipeline_parallel * virtual_stages
    workload = Workload(
        name=UNIT_COSTS,
        model=gpt("unit", layers=layers, hidden=2, heads=1, vocabulary=1),
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
    return solve(workload, load_hardware("cpu-2core"), options)


def _with_msp(plan: Plan) -> Plan:
    """The plan with MSP splits wherever ranks wait. Raises ValueError for mixed sequences."""
    if plan.kv_sets > 1:
        raise ValueError(
            "mixed sequences leave no idle ranks to MSP: leave --msp out, or take "
            "--sequences-per-step 1"
        )

    def cut(part: int, index: int, ranks: int) -> tuple[int, ...]:
        return (*[1] * (ranks - 1), plan.lengths_tokens[index] - ranks + 1)

    parts = plan.pipeline_parallel * plan.virtual_stages
    splits = msp_splits(plan.pipeline_parallel, parts, plan.subsequences, cut)
    return replace(plan, msp_splits=splits, prediction=None)


def _simulated(
    plan: Plan, simulation: Simulation, *, profile: Hardware | None, time_divisor: int
) -> Simulated:
    """The simulated step. Without a profile times and sizes are in unit costs."""
    busy = sum(simulation.busy)
    idle = len(simulation.busy) * simulation.makespan - busy

    def times(values: Sequence[int]) -> tuple[float, ...]:
        return tuple(_ratio(value, time_divisor) for value in values)

    def sizes(values: Sequence[int]) -> tuple[float, ...]:
        return times(values) if profile is None else tuple(values)

    kept = sizes(simulation.kept_peak_bytes)
    totals = tuple(stage.memory.total for stage in plan.stages)
    forward_makespan, makespan = times((simulation.forward_makespan, simulation.makespan))
    return Simulated(
        workload=plan.workload,
        hardware=UNIT_COSTS if profile is None else profile.name,
        profile_kind=UNIT_COSTS if profile is None else profile.kind,
        unit=COST_UNIT if profile is None else SECONDS,
        byte_unit=KEPT_UNIT if profile is None else BYTES,
        pipeline_parallel=plan.pipeline_parallel,
        sequence_parallel=plan.sequence_parallel,
        ulysses_parallel=plan.ulysses_parallel,
        context_parallel=plan.context_parallel,
        sharded_weights=plan.sharded_weights,
        data_parallel=plan.data_parallel,
        virtual_stages=plan.virtual_stages,
        subsequences=plan.subsequences,
        sequences=plan.sequences,
        forward_makespan=forward_makespan,
        makespan=makespan,
        bubble_share=simulation.bubble_share,
        bubble_ratio_paper=idle / busy,
        busy_per_stage=times(simulation.busy),
        peak_bytes_per_stage=kept if profile is None else totals,
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
    """Two tables: the step, and its stages. Equal stages share a line."""
    whole = [
        ("forward", _time(step, step.forward_makespan)),
        ("forward + backward", _time(step, step.makespan)),
        ("bubble share (idle / all)", f"{step.bubble_share:.1%}"),
        ("bubble ratio (idle / busy, the paper's)", f"{step.bubble_ratio_paper:.3f}"),
    ]
    titles = ("busy", "exposed copies", "device peak", "saved tensors", "host peak", "sent")
    blocks = [
        _head(step),
        rows_table(("simulated", "step"), whole),
        rows_table(("simulated: stage", *titles), _stage_rows(step)),
    ]
    if step.byte_unit != BYTES:
        blocks.append(f"memory in {step.byte_unit}")
    return "\n\n".join(blocks)


def _head(step: Simulated) -> str:
    layout = f"PP {step.pipeline_parallel}, chunks a stage {step.virtual_stages}"
    if step.sequence_parallel > 1:
        names = ("Ulysses", step.ulysses_parallel), ("CP", step.context_parallel)
        inside = " x ".join(f"{name} {degree}" for name, degree in names if degree > 1)
        layout = f"SP {step.sequence_parallel}{f' ({inside})' if inside else ''} x {layout}"
    if step.sharded_weights:
        layout = f"{layout}, sharded weights"
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
    for row, equal in itertools.groupby(enumerate(rows), key=lambda numbered: numbered[1]):
        stages = [stage for stage, _ in equal]
        name = str(stages[0]) if len(stages) == 1 else f"{stages[0]} .. {stages[-1]}"
        merged.append((name, *row))
    return merged


def _time(step: Simulated, value: float) -> str:
    return f"{value:.3f} s" if step.unit == SECONDS else f"{value:g} {step.unit}"


def _size(step: Simulated, value: float) -> str:
    return format_bytes(round(value)) if step.byte_unit == BYTES else f"{value:g}"
