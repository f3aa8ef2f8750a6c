"""SPPO under each of its policies in one layout: the gain of offloading and of recomputation.

The layout (stages, model chunks, N, the cut) is that of `auto`'s plan. If `auto` has no plan, the
first policy with a plan gives the layout. Every policy then decides on the same saved tensors. A
policy that does not fit is a row with the planner's reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from baselines import registry
from benchmarks.job import Status
from benchmarks.records.claim import Claim, claim
from benchmarks.records.metrics import Spread
from benchmarks.records.plan_record import plan_data, plan_words
from benchmarks.records.record import Record
from benchmarks.records.timing import Verdict, timings
from benchmarks.reporting import tables
from benchmarks.rows.assign import with_settings
from benchmarks.rows.row import Configuration, Row
from sppo.config.errors import Infeasible, NotSupported
from sppo.config.hardware import load_hardware
from sppo.config.workload import Workload
from sppo.cost_model.plan_costs import stage_offloaded_bytes
from sppo.plan.layout import Layout
from sppo.plan.plan import Plan, part_shape
from sppo.planner.layouts.candidates import cuts
from sppo.planner.options import SolverOptions

SCHEMA = "sppo-ablation/1"

SYSTEM = "sppo"
"""The system whose policies are compared."""


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """A row of the ablation. Sizes in bytes.

    relative_time: its step over that of `auto`, median of launch pairs, with its bootstrap
    interval; relative_time_reason: why there is none. Predicted and measured peaks are those of the
    fullest rank. offloaded_bytes and recomputed_bytes: planned, of all ranks in one step, offloaded
    one way.
    """

    policy: str
    settings: str
    status: Status
    timing: Verdict | None = None
    reason: str
    step_seconds: Spread | None = None
    relative_time: float | None = None
    relative_time_low: float | None = None
    relative_time_high: float | None = None
    relative_time_reason: str = ""
    peak_device_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    offloaded_bytes: int | None = None
    recomputed_bytes: int | None = None
    host_peak_bytes: int | None = None
    mfu_causal: float | None = None


def label(policy: str) -> str:
    """The row of a policy in tables and folders."""
    return f"SPPO {policy}"


def plan_under(workload: Workload, options: SolverOptions) -> Plan:
    """The plan that a launch gives to its ranks. Raises Infeasible, NotSupported or ValueError."""
    return registry.load_planner(SYSTEM).plan(workload, options)


def fixed_layout(workload: Workload, policies: Sequence[str]) -> tuple[SolverOptions, str]:
    """The solver's options that repeat one layout, and the policy whose plan has the layout.

    `auto` comes first, then the other policies in turn; free options and "" if none has a plan.
    Raises NotSupported or ValueError.
    """
    for policy in ("auto", *policies):
        # MSP takes memory that some policies lack. Plans with all-to-alls have few subsequences.
        options = SolverOptions(policy=policy, msp=False, stage_sharding="tensor")
        try:
            return _repeat(workload, plan_under(workload, options), options), policy
        except Infeasible:
            continue
    return SolverOptions(), ""


def _repeat(workload: Workload, plan: Plan, options: SolverOptions) -> SolverOptions:
    """Options under which the solver has this plan's layout only."""
    count, cap = cut_of(workload, plan, options.cut_of(plan.pipeline_parallel))
    shared = {field.name for field in fields(Layout)} & {field.name for field in fields(options)}
    layout: dict[str, Any] = {name: getattr(plan, name) for name in shared}
    layout["weights"] = "sharded" if plan.sharded_weights else "whole"
    hosted = plan.kv_block_tokens > 0
    return replace(options, **layout, kv_offload=hosted, subsequences=count, longest_tokens=cap)


def cut_of(workload: Workload, plan: Plan, kind: str) -> tuple[int, int | None]:
    """N and the cap on lengths in tokens (None: no cap) that give the plan's cut.

    A cap makes more subsequences than N. Raises ValueError if no N and cap give the cut.
    """
    profile = load_hardware(workload.cluster.hardware)
    for count in range(plan.subsequences, 0, -1):
        for cap in (None, 2 * -(-workload.sequence_tokens // count)):
            try:
                cut = next(iter(cuts(workload, profile, plan.sequence_parallel, count, kind, cap)))
            except ValueError:
                continue
            if cut == plan.lengths_tokens:
                return count, cap
    raise ValueError(f"no N and cap give the plan's {plan.subsequences} lengths")


def configurations(
    workload: Workload, policies: Sequence[str], layout: SolverOptions
) -> dict[str, tuple[Configuration, Plan | None]]:
    """The row of each policy with its plan, or with the planner's refusal and no plan."""
    return {
        policy: planned_row(label(policy), workload, replace(layout, policy=policy))
        for policy in policies
    }


def planned_row(
    name: str, workload: Workload, options: SolverOptions
) -> tuple[Configuration, Plan | None]:
    """SPPO's row of this name under these options with its plan; no plan where there is none.

    Raises ValueError.
    """
    row = Row(label=name, system=SYSTEM, choosing="planned")
    try:
        plan = plan_under(workload, options)
    except (Infeasible, NotSupported) as error:
        status: Status = "infeasible" if isinstance(error, Infeasible) else "unavailable"
        return Configuration(row=row, status=status, reason=str(error)), None
    data = plan_data(plan)
    changes = {"plan": data, "settings_text": plan_words(data)}
    return with_settings(row, registry.load(SYSTEM), options, grid="", **changes), plan


def offloaded_bytes(plan: Plan) -> int:
    """Bytes of activations that the plan offloads in a step, over all ranks."""
    by_stage = sum(stage_offloaded_bytes(plan, stage) for stage in range(plan.pipeline_parallel))
    return plan.data_parallel * plan.sequence_parallel * by_stage


def recomputed_bytes(plan: Plan) -> int:
    """Bytes of saved tensors that the plan recomputes in a step, over all ranks."""
    total = 0
    for number, part in enumerate(plan.parts):
        shape = part_shape(plan, number)
        for tokens, recomputed in zip(plan.lengths_tokens, part.recompute_units, strict=True):
            total += shape.kept_bytes(tokens) - shape.kept_bytes(tokens, recomputed)
    return plan.sequences_per_step * plan.sequence_parallel * total


def results(
    done: Sequence[Record], plans: dict[str, tuple[Configuration, Plan | None]]
) -> list[PolicyResult]:
    """One row per policy, in the order of `plans`."""
    summaries = {summary.row: summary for summary in tables.summaries(done)}
    judged = timings(done)
    auto = [record for record in done if record.row == label("auto")]
    rows = []
    for policy, (_, plan) in plans.items():
        summary = summaries[label(policy)]
        launches = [record for record in done if record.row == label(policy)]
        compared = claim(launches, auto, judged) if summary.status == "ok" else Claim()
        memory = [] if plan is None else [stage.memory.total for stage in plan.stages]
        rows.append(
            PolicyResult(
                policy=policy,
                settings=summary.settings,
                status=summary.status,
                reason=summary.reason,
                step_seconds=summary.step_seconds,
                timing=summary.timing,
                relative_time=compared.ratio,
                relative_time_low=compared.low,
                relative_time_high=compared.high,
                relative_time_reason=compared.reason,
                peak_device_bytes=summary.tracked_peak_bytes,
                predicted_peak_bytes=max(memory, default=None),
                offloaded_bytes=None if plan is None else offloaded_bytes(plan),
                recomputed_bytes=None if plan is None else recomputed_bytes(plan),
                host_peak_bytes=summary.host_peak_bytes,
                mfu_causal=summary.mfu_causal,
            )
        )
    return rows
