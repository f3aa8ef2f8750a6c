"""The paper's ablation (fig. 11) in simulation: full offload, adaptive offload, + MSP, one layout.

Nothing is launched or measured. The paper's three variants differ in their decisions and in MSP
alone. Further rows change one thing more, which their name states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from benchmarks.paper.reported import ReportedPoint
from benchmarks.reporting.simulated_step import checked_simulation
from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.memory_model.model_state import block_tokens
from sppo.plan.plan import Plan
from sppo.planner.activations import policies
from sppo.planner.evaluate import plan_of
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.msp import with_msp
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

SCHEMA = "sppo-simulated-ablation/1"

PAPER_VIRTUAL_STAGES = 1
"""Model chunks of a stage where the user names none: the paper's pipeline has one."""

SPARE_MEMORY_BYTES = 2**60
"""A device memory that no variant fills."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a row changes. reported: the variant's name in the paper's numbers.

    hosted_kv: K and V are offloaded too. spacious: the device has all the memory that is needed.
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
FREE = Variant(name="further: auto, the solver's own layout", policy="auto")


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """One variant, simulated. Seconds and bytes; None without a plan.

    planned_seconds: the plan's own prediction of the step. compute_seconds: mean of the stages.
    bubble_share: idle share of all ranks' time. exposed_copy_seconds: time in which compute waits
    for copies, of the stage with most such time. Peaks are of the fullest rank; the host's peak
    includes K and V in the host tier.
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
class AblationPoint:
    """A workload and its rows. The first three rows are the paper's variants."""

    workload: Workload
    profile: Hardware
    layout: str
    layout_from: str
    rows: tuple[VariantResult, ...]


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient; None if either number is unknown."""
    if numerator is None or denominator is None:
        return None
    return numerator / denominator


def fixed_options(
    asked: SolverOptions, reported: ReportedPoint | None
) -> tuple[SolverOptions, str]:
    """The solver's options before the search, and the source of the layout in words.

    The user's degrees come first, then the paper's table 4; the solver chooses the rest. As in the
    paper, the ranks of a stage divide its weights, unless the user asks for all-to-alls.
    """
    options = replace(
        asked,
        ulysses_parallel=asked.ulysses_parallel or 1,
        context_parallel=asked.context_parallel or 1,
        weights="whole",
        virtual_stages=asked.virtual_stages or PAPER_VIRTUAL_STAGES,
    )
    rest = "the solver's fastest for adaptive offload without MSP"
    if asked.virtual_stages is None:
        rest += ", one model chunk a stage"
    degrees = (asked.sequence_parallel, asked.pipeline_parallel, asked.data_parallel)
    if reported is None:
        return options, rest
    if degrees != (None, None, None):
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


def ablation_point(
    workload: Workload, profile: Hardware, asked: SolverOptions, reported: ReportedPoint | None
) -> AblationPoint:
    """All rows of one workload. Raises ValueError if no layout has the asked degrees."""
    options, source = fixed_options(asked, reported)
    try:
        layout = common_layout(workload, profile, options)
    except Infeasible as error:
        words = "none"
        rows = [_infeasible(variant, words, str(error)) for variant in PAPERS]
    else:
        words = str(layout)
        rows = list(_rows(layout))
    return AblationPoint(
        workload=workload,
        profile=profile,
        layout=words,
        layout_from=source,
        rows=tuple(_with_speeds(rows, reported)),
    )


def _rows(layout: TimedLayout) -> Iterator[VariantResult]:
    yield from (variant_result(variant, layout) for variant in PAPERS[:2])
    msp = variant_result(MSP, layout)
    yield msp
    if not layout.kv_block_tokens and layout.context_parallel == 1:
        yield variant_result(HOSTED, layout)
    limited = layout.workload.device_memory_bytes is not None
    if msp.status == "infeasible" and limited and layout.pipeline_parallel > 1:
        yield variant_result(SPACIOUS_MSP, layout)
    yield variant_result(RECOMPUTE, layout)
    yield variant_result(RECOMPUTE_MSP, layout)
    yield free_result(layout.workload, layout.profile)


def common_layout(workload: Workload, profile: Hardware, options: SolverOptions) -> TimedLayout:
    """The fastest layout for adaptive offload without MSP; if none fits, for full offload.

    K and V stay on the device, as in the paper, unless neither policy fits; then auto decides.
    Raises Infeasible with the planner's reason if nothing fits.
    """
    for hosted in (False, True) if options.context_parallel == 1 else (False,):
        for policy in (ADAPTIVE.policy, FULL.policy):
            candidate = replace(options, policy=policy, msp=False, kv_offload=hosted)
            with suppress(Infeasible):
                plan = solve(workload, profile, candidate)
                return TimedLayout.of(plan, workload, profile)
    last = replace(options, policy=RECOMPUTE.policy, msp=False)
    return TimedLayout.of(solve(workload, profile, last), workload, profile)


def variant_result(variant: Variant, layout: TimedLayout) -> VariantResult:
    """A variant in the common layout, or the reason why the variant does not fit."""
    if variant.hosted_kv:
        blocks = block_tokens(layout.workload, layout.sequence_parallel)
        layout = replace(layout, kv_block_tokens=blocks)
    if variant.spacious:
        # A limit that never binds: without a limit helpers would recompute nothing.
        spacious = layout.workload.with_device_memory(SPARE_MEMORY_BYTES)
        layout = replace(layout, workload=spacious, kv_block_tokens=0)
    choose = partial(policies.choose, policy=variant.policy)
    try:
        plan = plan_of(layout, choose)
    except LayoutDoesNotFit as short:
        return _infeasible(variant, str(layout), f"short by {short}")
    if variant.msp:
        try:
            plan = with_msp(plan, [layout], choose, wanted=True).plan
        except (Infeasible, ValueError) as error:
            reason = str(error).removesuffix("; leave --msp out")
            return _infeasible(variant, f"{layout}, MSP", reason)
    return simulated(plan, variant, layout)


def _infeasible(variant: Variant, layout: str, reason: str) -> VariantResult:
    return VariantResult(
        variant=variant.name,
        policy=variant.policy,
        layout=layout,
        status="infeasible",
        reason=reason,
    )


def free_result(workload: Workload, profile: Hardware) -> VariantResult:
    """The solver's own choice: every layout, policy auto, MSP if it pays."""
    try:
        plan = solve(workload, profile)
    except Infeasible as error:
        return _infeasible(FREE, "none", str(error))
    layout = TimedLayout.of(replace(plan, msp_splits=()), workload, profile)
    return simulated(plan, FREE, layout)


def simulated(plan: Plan, variant: Variant, layout: TimedLayout) -> VariantResult:
    """The simulated step of a plan. layout: the plan's, without MSP."""
    step = checked_simulation(plan, layout.profile)
    ends = ""
    if plan.msp_splits:
        fills = all(msp_split.fills for msp_split in plan.msp_splits)
        ends = ", MSP at the first end" if fills else ", MSP at both ends"
    return VariantResult(
        variant=variant.name,
        policy=variant.policy,
        layout=f"{layout}{ends}",
        status="ok",
        step_seconds=step.makespan / 1e9 + plan.reduction_seconds,
        planned_seconds=plan.makespan_seconds,
        compute_seconds=sum(step.busy) / len(step.busy) / 1e9,
        bubble_share=step.bubble_share,
        exposed_copy_seconds=max(step.exposed_copies) / 1e9,
        peak_device_bytes=max(stage.memory.total for stage in plan.stages),
        host_peak_bytes=max(stage.memory.host + stage.memory.kv_host for stage in plan.stages),
    )


def _with_speeds(
    rows: Sequence[VariantResult], reported: ReportedPoint | None
) -> Iterator[VariantResult]:
    """Speeds over full offload, and the paper's beside the paper's variants."""
    paper = {} if reported is None else reported.over_megatron
    names = {variant.name: variant.reported for variant in PAPERS}
    for row in rows:
        paper_speed = paper.get(names.get(row.variant, ""))
        yield replace(
            row,
            speed_over_full_offload=ratio(rows[0].step_seconds, row.step_seconds),
            paper_speed_over_full_offload=ratio(paper_speed, paper.get(FULL.reported)),
            paper_speed_over_megatron=paper_speed,
        )
