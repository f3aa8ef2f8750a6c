"""SPPO under each of its policies, in one layout: what two-level offloading and recomputation buy.

The layout (stages, parts, N, the cut) is that of `auto`'s plan, or where it has none that of the
first policy with one; every policy then decides on the same tensors. A policy that does not fit is
a row with the planner's reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.job import Status
from benchmarks.records import metrics
from benchmarks.records.metrics import Spread
from benchmarks.records.plan_record import plan_data, plan_words
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.rows.assign import with_settings
from benchmarks.rows.row import Configuration, Row
from sppo.config.errors import Infeasible, NotBuilt
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from sppo.plan.plan import Plan
    from sppo.planner.options import SolverOptions

SCHEMA = "sppo-ablation/1"

SYSTEM = "sppo"
"""The one system whose policies are compared."""


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """A row of the ablation. Bytes; planned sums are over all ranks of one step, one way.

    relative_time: its step over that of `auto`, median of launch pairs. predicted and counted
    peaks are those of the fullest rank.
    """

    policy: str
    settings: str
    status: Status
    reason: str
    step_seconds: Spread | None = None
    relative_time: float | None = None
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
    """The plan that a launch gives to its ranks. Raises Infeasible, NotBuilt or ValueError."""
    from baselines import registry

    return registry.load_planner(SYSTEM).plan(workload, options)


def fixed_layout(workload: Workload, policies: Sequence[str]) -> tuple[SolverOptions, str]:
    """The solver's options that repeat the layout of auto's plan, and whose plan it is.

    Where auto has none, of the next policy's that has one; free options and "" where none has.
    """
    from sppo.planner.options import SolverOptions

    for policy in ("auto", *policies):
        options = SolverOptions(policy=policy, msp=False)  # lending takes memory that some lack
        try:
            return _repeat(workload, plan_under(workload, options), options), policy
        except Infeasible:
            continue
    return SolverOptions(), ""


def _repeat(workload: Workload, plan: Plan, options: SolverOptions) -> SolverOptions:
    """Options under which the solver has this plan's layout only."""
    fixed = {
        "pipeline_parallel": plan.pipeline_parallel,
        "sequence_parallel": plan.sequence_parallel,
        "data_parallel": plan.data_parallel,
        "virtual_stages": plan.virtual_stages,
        "group_subsequences": plan.group_subsequences,
        "kv_offload": plan.kv_block_tokens > 0,
        "head_alone": plan.head_alone,
    }
    count, cap = cut_of(workload, plan, options.cut_of(plan.pipeline_parallel))
    changes: dict[str, Any] = {**fixed, "subsequences": count, "longest_tokens": cap}
    return replace(options, **changes)


def cut_of(workload: Workload, plan: Plan, kind: str) -> tuple[int, int | None]:
    """N and the cap on lengths (None: none) that give the plan's cut: a cap makes more of them.

    Raises ValueError if nothing does.
    """
    from sppo.config.hardware import load_hardware
    from sppo.planner.layouts.candidates import cuts

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


def assignments(
    workload: Workload, policies: Sequence[str], layout: SolverOptions
) -> dict[str, tuple[Configuration, Plan | None]]:
    """One row per policy, with its plan, or refused with the planner's reason."""
    from baselines import registry

    adapter = registry.load(SYSTEM)
    rows: dict[str, tuple[Configuration, Plan | None]] = {}
    for policy in policies:
        row = Row(label=label(policy), system=SYSTEM, choosing="planned")
        options = replace(layout, policy=policy)
        try:
            plan = plan_under(workload, options)
        except (Infeasible, NotBuilt) as error:
            status: Status = "infeasible" if isinstance(error, Infeasible) else "unavailable"
            rows[policy] = (Configuration(row=row, status=status, reason=str(error)), None)
            continue
        data = plan_data(plan)
        assignment = with_settings(row, adapter, options, grid="", plan=data)
        rows[policy] = (replace(assignment, settings_text=plan_words(data)), plan)
    return rows


def moved_bytes(plan: Plan) -> int:
    """What the plan sends to the host tier in a step, over all ranks, activations alone."""
    from sppo.cost_model.plan_costs import stage_offloaded_bytes

    by_stage = sum(stage_offloaded_bytes(plan, stage) for stage in range(plan.pipeline_parallel))
    return plan.data_parallel * plan.sequence_parallel * by_stage


def remade_bytes(plan: Plan) -> int:
    """What the plan drops and makes again in a step, over all ranks."""
    from sppo.plan.parts import PartShape

    total = 0
    for part in plan.parts:
        shape = PartShape(
            model=plan.model,
            layers=part.layer_range,
            head=part.head,
            element_bytes=plan.element_bytes,
            shards=plan.sequence_parallel,
        )
        for tokens, dropped in zip(plan.lengths_tokens, part.recompute_units, strict=True):
            whole = shape.kept_bytes(tokens)
            total += whole - shape.kept_bytes(tokens, dropped)
    return plan.sequences_per_step * plan.sequence_parallel * total


def results(
    done: Sequence[Record], plans: dict[str, tuple[Configuration, Plan | None]], workload: Workload
) -> list[PolicyResult]:
    """One row per policy, in the order in which they were asked for."""
    by_row = {summary.row: summary for summary in tables.summaries(done)}
    launches = {
        policy: [record for record in done if record.row == label(policy)] for policy in plans
    }
    found = []
    for policy, (_, plan) in plans.items():
        summary = by_row[label(policy)]
        ok = summary.status == "ok"
        auto = launches.get("auto", [])
        # metrics.speed_up is row over yardstick: the policy's time over auto's.
        relative = metrics.speed_up(launches[policy], auto) if ok else None
        memory = [] if plan is None else [stage.memory.total for stage in plan.stages]
        found.append(
            PolicyResult(
                policy=policy,
                settings=summary.settings,
                status=summary.status,
                reason=summary.reason,
                step_seconds=summary.step_seconds,
                relative_time=relative,
                peak_device_bytes=summary.tracked_peak_bytes,
                predicted_peak_bytes=max(memory, default=None),
                offloaded_bytes=None if plan is None else moved_bytes(plan),
                recomputed_bytes=None if plan is None else remade_bytes(plan),
                host_peak_bytes=summary.host_peak_bytes,
                mfu_causal=summary.mfu_causal,
            )
        )
    return found


def flat(result: PolicyResult) -> dict[str, Any]:
    """One plain value a key, for CSV."""
    values = asdict(result)
    spread = values.pop("step_seconds") or {}
    return values | {f"step_seconds_{part}": spread.get(part) for part in ("median", "low", "high")}
