"""Whether multiplexed sequence partitioning (MSP, paper sec. 6.2) pays: plans with and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.plan.plan import Plan
from sppo.planner.evaluate import Choose, plan_of, stage_problem
from sppo.planner.layouts.timed_layout import Ends, TimedLayout
from sppo.planner.report.wording import counted
from sppo.planner.search.least_added import least_added

COARSER = 3
"""Cuts that are tried with MSP: the plan's own and the next coarser ones.

Idle ends are what makes a fine cut worth its price; with MSP a coarser one may be faster.
"""

OTHER_FAMILIES = 2
"""Degrees and chunks a stage, besides the plan's own, that are tried with MSP."""

FASTEST = 4
"""Layouts of the least estimate with MSP that are tried, whatever their family."""

SHARE_LEFT = {"fill": 0.2, "both": 0.4}
"""Idle time that MSP leaves at the ends that it splits, in times of the longest subsequence."""


OPTIMISM = 0.97
"""Simulated step over its estimate, before any was simulated: MSP also balances the stages."""

SPREAD = 0.985
"""Further steps of a family over their estimates: at least so many times the least simulated."""

COARSEST = 1.5
"""Subsequences for each stage, at least, of a layout that is tried for its estimate alone."""


@dataclass(frozen=True, kw_only=True)
class MspResult:
    """The faster plan, and why. `layout` is the plan's if it has MSP, else None."""

    plan: Plan
    layout: TimedLayout | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A layout without MSP, when it shall split, and its estimated seconds with MSP."""

    resident: TimedLayout
    ends: Ends
    estimate: float

    @property
    def kind(self) -> tuple[object, ...]:
        """Candidates of a kind have about the same step over their estimates."""
        return (*self.resident.family, self.ends)


def with_msp(
    plan: Plan,
    layouts: Sequence[TimedLayout],
    choose: Choose,
    wanted: bool | None,
    near: Sequence[TimedLayout] = (),
) -> MspResult:
    """The faster of `plan` and the plans with MSP (`wanted` decides if given).

    near: layouts whose steps without MSP are about as short as the plan's.
    Raises ValueError if MSP is wanted and impossible, Infeasible if it is wanted and does not fit.
    """
    candidates = [] if wanted is False else _candidates(plan, layouts, near)
    if not candidates:
        if wanted:
            raise ValueError(f"no MSP: {_impossible(plan)}")
        return MspResult(plan=plan)
    best: MspResult | None = None
    least = float("inf") if wanted else plan.makespan_seconds
    slowest = float("inf")
    ratios: dict[tuple[object, ...], float] = {}
    shorts: list[LayoutDoesNotFit] = []
    for candidate in candidates:
        expected = candidate.estimate * ratios.get(candidate.kind, OPTIMISM)
        if expected >= least:
            slowest = min(slowest, expected)
            continue
        try:
            layout = candidate.resident.with_msp(candidate.ends)
            for stage in layout.end_stages:  # they help most, the last as the pipeline fills
                stage_problem(layout, stage).require_room()
            split = plan_of(layout, choose)
        except LayoutDoesNotFit as short:
            shorts.append(short)
            continue
        if not split.msp_splits:
            continue
        if candidate.resident.pipeline_parallel > 2:  # two stages are soon simulated
            ratio = SPREAD * split.makespan_seconds / candidate.estimate
            ratios[candidate.kind] = min(ratio, ratios.get(candidate.kind, ratio))
        if best is None or split.makespan_seconds < best.plan.makespan_seconds:
            best = MspResult(plan=split, layout=layout)
            least = min(least, split.makespan_seconds)
    if best is None:
        return _without(plan, shorts, slowest, wanted)
    gain = plan.makespan_seconds / best.plan.makespan_seconds - 1
    if gain <= 0 and not wanted:
        return MspResult(plan=plan, notes=(f"no MSP: simulated {-gain:.1%} slower with it",))
    return MspResult(plan=best.plan, layout=best.layout, notes=(_gain(plan, best.plan, gain),))


def _without(
    plan: Plan, shorts: Sequence[LayoutDoesNotFit], slower: float, wanted: bool | None
) -> MspResult:
    """No plan with MSP was made. slower: the least estimate that was too slow to try."""
    reason = "its subsequences are too short for slices"
    if shorts:
        reason = f"short by {min(shorts, key=lambda short: short.bytes)}"
    elif slower < float("inf"):
        share = slower / plan.makespan_seconds - 1
        reason = f"estimated {share:.1%} slower with it"
    if wanted:
        raise Infeasible(f"{plan.workload}: no plan with MSP fits: {reason}; leave --msp out")
    return MspResult(plan=plan, notes=(f"no MSP: {reason}",))


def _gain(plan: Plan, split: Plan, gain: float) -> str:
    where = "the first end" if all(split.fills for split in split.msp_splits) else "both ends"
    without = ""
    if (split.virtual_stages, split.degrees_words) != (plan.virtual_stages, plan.degrees_words):
        chunks = counted(plan.virtual_stages, "model chunk")
        without = f" ({plan.degrees_words}, {chunks} a stage, N {plan.subsequences})"
    elif split.lengths_tokens != plan.lengths_tokens:
        without = f" (N {plan.subsequences})"
    return (
        f"MSP at {where}: simulated {gain:+.1%} faster than the plan without MSP{without}; idle "
        f"{split.bubble_share:.1%} instead of {plan.bubble_share:.1%}"
    )


def _impossible(plan: Plan) -> str:
    if plan.pipeline_parallel == 1:
        return "a single stage never waits; take --pp 2 or more"
    if plan.kv_sets > 1:
        return "the sequences of a step are mixed and fill the pipeline; take one sequence a step"
    return "K and V are in the host tier, where helpers cannot read them; shorten the sequence"


def _candidates(
    plan: Plan, layouts: Sequence[TimedLayout], near: Sequence[TimedLayout]
) -> list[_Candidate]:
    """The layouts to try, and when they split, of the least estimate first.

    Of the plan's family: its cut and the next coarser ones. Of the other families: the fastest cut.
    Of all: those near the plan, and those of the least estimate. With MSP little is left of the
    idle ends, so that work alone tells families apart.
    """
    own: list[TimedLayout] = []
    families: dict[tuple[int, ...], list[TimedLayout]] = {}
    for layout in layouts:
        if layout.may_split and layout.family == plan.family:
            own.append(layout)
        elif layout.may_split:
            families.setdefault(layout.family, []).append(layout)
    cuts = [
        layout
        for layout in own
        if layout.subsequences < plan.subsequences or layout.lengths_tokens == plan.lengths_tokens
    ]
    cuts.sort(key=lambda layout: -layout.subsequences)
    ranked = sorted(
        families.values(), key=lambda family: min(cut.work_and_ends_seconds[0] for cut in family)
    )
    fastest = [min(family, key=lambda cut: cut.least_seconds) for family in ranked[:OTHER_FAMILIES]]
    every = [
        layout
        for family in (own, *families.values())
        for layout in family
        if layout.subsequences >= COARSEST * layout.pipeline_parallel
    ]
    every.sort(key=lambda layout: _time_alone(layout, "both"))
    close = [layout for layout in near if layout.may_split]
    rows = cuts[:COARSER], fastest, every[:FASTEST], close[:FASTEST]
    tried = {id(layout): layout for row in rows for layout in row}
    ends: tuple[Ends, ...] = ("fill", "both")
    candidates = [
        _Candidate(resident=layout, ends=end, estimate=_time_alone(layout, end) + _added(layout))
        for layout, end in product(tried.values(), ends)
    ]
    return sorted(candidates, key=lambda candidate: candidate.estimate)


def _time_alone(layout: TimedLayout, ends: Ends) -> float:
    """Seconds of compute with MSP, without its messages: the fullest stage's and what is idle."""
    work, idle = layout.work_and_ends_seconds
    longest = idle / (layout.pipeline_parallel - 1)
    unsplit = idle / 2 if ends == "fill" else 0.0
    return work + unsplit + SHARE_LEFT[ends] * longest + layout.reduction_seconds


def _added(layout: TimedLayout) -> float:
    """The least seconds that memory adds to an end stage without MSP; with MSP it adds more."""
    if layout.workload.device_memory_bytes is None:
        return 0.0
    problems = [stage_problem(layout, stage) for stage in layout.end_stages]
    return layout.sequences * max(least_added(problem).ns for problem in problems) / 1e9
