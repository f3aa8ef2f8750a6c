"""The paper's ablation (fig. 11) in simulation: full offload, adaptive offload, + MSP, one layout.

Nothing is launched and nothing measured. The three variants differ in their decisions and in MSP
alone; further rows show what they do not, each named for it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.paper.reported import ReportedPoint
from sppo.config.errors import Infeasible, Short
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import plan_costs
from sppo.memory_model.model_state import block_tokens
from sppo.memory_model.stage_memory import StageDecisions
from sppo.plan.plan import Plan
from sppo.planner.activations import policies
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.evaluate import plan_of
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.msp import with_msp
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.simulate import simulate

SCHEMA = "sppo-simulated-ablation/1"

LIKE_THE_PAPERS_PARTS = 1
"""Parts a stage where the user does not say: the paper's pipeline has one."""

TO_SPARE_BYTES = 2**60
"""More device memory than anything takes, for what-ifs."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a row changes. `reported`: its name in the paper's numbers.

    hosted_kv: K and V travel too. spacious: as if a device had as much memory as it takes.
    """

    name: str
    policy: str
    reported: str = ""
    msp: bool = False
    hosted_kv: bool = False
    spacious: bool = False


FULL = Variant(name="full offload", policy="full-offload", reported="full_offload")
ADAPTIVE = Variant(name="adaptive offload", policy="paper", reported="adaptive_offload")
MSP = Variant(name="adaptive offload + MSP", policy="paper", reported="msp", msp=True)
PAPERS = (FULL, ADAPTIVE, MSP)

HOSTED = Variant(name="further: full offload, K and V too", policy="full-offload", hosted_kv=True)
SPACIOUS_MSP = Variant(
    name="what if: + MSP, device memory to spare", policy="paper", msp=True, spacious=True
)
RECOMPUTE = Variant(name="further: auto (recompute is allowed)", policy="auto")
RECOMPUTE_MSP = Variant(name="further: auto + MSP", policy="auto", msp=True)
FREE = "further: auto, the solver's own layout"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant, simulated. Seconds, bytes; None where there is no plan.

    planned_seconds is what the plan says of the same step. compute_seconds is the mean of the
    stages, bubble_share idle rank-time of any kind. exposed_copy_seconds: compute waits for
    copies, both directions, on the stage with most such time. Peaks are of the fullest rank; the
    host's has K and V where they lie there.
    """

    label: Literal["simulated"] = "simulated"
    variant: str
    policy: str
    layout: str
    status: Literal["ok", "infeasible"]
    reason: str = ""
    step_seconds: float | None = None
    planned_seconds: float | None = None
    compute_seconds: float | None = None
    speed_over_full_offload: float | None = None
    paper_speed_over_full_offload: float | None = None
    paper_speed_over_megatron: float | None = None
    bubble_share: float | None = None
    exposed_copy_seconds: float | None = None
    peak_device_bytes: int | None = None
    host_peak_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A workload with its rows; the first three are the paper's variants."""

    workload: str
    model: str
    sequence_tokens: int
    ranks: int
    hardware: str
    profile_kind: str
    device_memory_bytes: int | None
    host_memory_bytes: int | None
    layout: str
    layout_from: str
    rows: tuple[Row, ...] = field(default=())


def fixed_options(
    asked: SolverOptions, reported: ReportedPoint | None
) -> tuple[SolverOptions, str]:
    """What of the layout is fixed before the solver is asked for the rest, and by whom, in words.

    The paper's table 4, where it has this point; what the user gave goes before it.
    """
    options = replace(asked, virtual_stages=asked.virtual_stages or LIKE_THE_PAPERS_PARTS)
    rest = "the solver's fastest for adaptive offload without MSP"
    if asked.virtual_stages is None:
        rest += ", one part a stage"
    own = (asked.sequence_parallel, asked.pipeline_parallel, asked.data_parallel)
    if reported is None:
        return options, rest
    if own != (None, None, None):
        return options, f"what was asked, else {rest}"
    options = replace(
        options,
        sequence_parallel=reported.sequence_parallel,
        pipeline_parallel=reported.pipeline_parallel,
        data_parallel=1,
        subsequences=asked.subsequences or reported.subsequences,
    )
    given = asked.subsequences is not None or asked.virtual_stages is not None
    return options, "the paper's table 4" + (", but for what was asked" if given else "")


def point(
    workload: Workload, profile: Hardware, asked: SolverOptions, reported: ReportedPoint | None
) -> Point:
    """All rows of one workload. Raises ValueError if no layout can be what was asked."""
    options, source = fixed_options(asked, reported)
    found = Point(
        workload=workload.name,
        model=workload.model.name,
        sequence_tokens=workload.sequence_tokens,
        ranks=workload.cluster.ranks,
        hardware=profile.name,
        profile_kind=profile.kind,
        device_memory_bytes=workload.device_memory_bytes,
        host_memory_bytes=workload.host_memory_bytes,
        layout="none",
        layout_from=source,
    )
    try:
        layout = common_layout(workload, profile, options)
    except Infeasible as error:
        rows = [_infeasible(variant, "none", str(error)) for variant in PAPERS]
        return replace(found, rows=tuple(_with_paper(rows, reported)))
    rows = [variant_row(variant, layout) for variant in PAPERS]
    if not layout.kv_block_tokens:
        rows.append(variant_row(HOSTED, layout))
    limited = workload.device_memory_bytes is not None
    if rows[2].status == "infeasible" and limited and layout.pipeline_parallel > 1:
        rows.append(variant_row(SPACIOUS_MSP, layout))
    rows += [variant_row(RECOMPUTE, layout), variant_row(RECOMPUTE_MSP, layout)]
    rows.append(free_row(workload, profile))
    return replace(found, layout=str(layout), rows=tuple(_with_paper(rows, reported)))


def common_layout(workload: Workload, profile: Hardware, options: SolverOptions) -> TimedLayout:
    """The fastest layout for adaptive offload without MSP; where none fits, for full offload.

    K and V stay on the device, as the paper's do, unless neither policy fits so; then auto decides.
    Raises Infeasible with its reason if nothing fits.
    """
    for hosted in (False, True):
        for policy in (ADAPTIVE.policy, FULL.policy):
            tried = replace(options, policy=policy, msp=False, kv_offload=hosted)
            with suppress(Infeasible):
                plan = solve(workload, profile, tried)
                return TimedLayout.of(plan.layout, workload, profile)
    last = replace(options, policy=RECOMPUTE.policy, msp=False)
    return TimedLayout.of(solve(workload, profile, last).layout, workload, profile)


def variant_row(variant: Variant, layout: TimedLayout) -> Row:
    """A variant in the common layout, or why it is not there."""
    changed = _changed(variant, layout)

    def choose(problem: StageProblem) -> StageDecisions:
        return policies.choose(problem, variant.policy)

    try:
        plan = plan_of(changed, choose)
    except Short as short:
        return _infeasible(variant, str(changed), f"short by {short}")
    if variant.msp:
        try:
            plan = with_msp(plan, [changed], choose, wanted=True).plan
        except (Infeasible, ValueError) as error:
            reason = str(error).removesuffix("; leave --msp out")
            return _infeasible(variant, f"{changed}, MSP", reason)
    return simulated_row(plan, layout.profile, variant.name, variant.policy)


def _changed(variant: Variant, layout: TimedLayout) -> TimedLayout:
    if variant.hosted_kv:
        blocks = block_tokens(layout.workload, layout.sequence_parallel)
        layout = replace(layout, kv_block_tokens=blocks)
    if variant.spacious:
        # A limit, though none that binds: without one helpers would recompute nothing.
        spacious = layout.workload.with_device_memory(TO_SPARE_BYTES)
        layout = replace(layout, workload=spacious, kv_block_tokens=0)
    return layout


def _infeasible(variant: Variant, layout: str, reason: str) -> Row:
    return Row(
        variant=variant.name,
        policy=variant.policy,
        layout=layout,
        status="infeasible",
        reason=reason,
    )


def free_row(workload: Workload, profile: Hardware) -> Row:
    """What our solver does when nothing is fixed: every layout, policy auto, MSP if it pays."""
    try:
        plan = solve(workload, profile)
    except Infeasible as error:
        variant = Variant(name=FREE, policy=RECOMPUTE.policy)
        return _infeasible(variant, "none", str(error))
    return simulated_row(plan, profile, FREE, RECOMPUTE.policy)


def simulated_row(plan: Plan, profile: Hardware, name: str, policy: str) -> Row:
    """The simulated step of a plan."""
    schedule = build_schedule(plan)
    check_schedule(schedule)
    costs, slice_costs = plan_costs(plan, profile), plan_slice_costs(plan, profile)
    step = simulate(schedule, costs, slice_costs)
    return Row(
        variant=name,
        policy=policy,
        layout=_words(plan),
        status="ok",
        step_seconds=step.makespan / 1e9 + plan.reduction_seconds,
        planned_seconds=plan.makespan_seconds,
        compute_seconds=sum(step.busy) / len(step.busy) / 1e9,
        bubble_share=step.bubble_share,
        exposed_copy_seconds=max(step.exposed_copies) / 1e9,
        peak_device_bytes=max(stage.memory.total for stage in plan.stages),
        host_peak_bytes=max(stage.memory.host + stage.memory.kv_host for stage in plan.stages),
    )


def _words(plan: Plan) -> str:
    parts = "1 part" if plan.virtual_stages == 1 else f"{plan.virtual_stages} parts"
    hosted = ", K and V in the host tier" if plan.kv_block_tokens else ""
    ends = ""
    if plan.msp_splits:
        fills = all(msp_split.fills for msp_split in plan.msp_splits)
        ends = ", MSP at the first end" if fills else ", MSP at both ends"
    return f"{plan.degrees_words}, {parts} a stage, N {plan.subsequences}{hosted}{ends}"


def _with_paper(rows: list[Row], reported: ReportedPoint | None) -> list[Row]:
    """Speeds over full offload, and the paper's beside the paper's variants."""
    full = rows[0].step_seconds
    done = []
    for number, row in enumerate(rows):
        if full is not None and row.step_seconds is not None:
            row = replace(row, speed_over_full_offload=full / row.step_seconds)
        if reported is not None and number < len(PAPERS):
            name = PAPERS[number].reported
            row = replace(
                row,
                paper_speed_over_full_offload=reported.over_full_offload(name),
                paper_speed_over_megatron=reported.over_megatron.get(name),
            )
        done.append(row)
    return done
