"""Whether multiplexed sequence partitioning (MSP, paper sec. 6.2) pays: plans with and without."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.plan.plan import Plan
from sppo.planner.evaluate import Choose, plan_of, stage_problem
from sppo.planner.layouts.timed_layout import Ends, TimedLayout
from sppo.planner.report.wording import counted

COARSER = 3
"""Cuts that are tried with MSP: the plan's own and the next coarser ones.

Idle ends are what makes a fine cut worth its price; with MSP a coarser one may be faster.
"""

OTHER_FAMILIES = 2
"""Degrees and chunks a stage, besides the plan's own, that are tried with MSP."""


@dataclass(frozen=True, kw_only=True)
class MspResult:
    """The faster plan, and why. `layout` is the plan's if it has MSP, else None."""

    plan: Plan
    layout: TimedLayout | None = None
    notes: tuple[str, ...] = ()


def with_msp(
    plan: Plan, layouts: Sequence[TimedLayout], choose: Choose, wanted: bool | None
) -> MspResult:
    """The faster of `plan` and the plans with MSP (`wanted` decides if given).

    Raises ValueError if MSP is wanted and impossible, Infeasible if it is wanted and does not fit.
    """
    candidates = [] if wanted is False else _candidates(plan, layouts)
    if not candidates:
        if wanted:
            raise ValueError(f"no MSP: {_impossible(plan)}")
        return MspResult(plan=plan)
    best: MspResult | None = None
    shorts: list[LayoutDoesNotFit] = []
    for resident, ends in candidates:
        least = float("inf") if best is None else best.plan.makespan_seconds
        if resident.work_and_ends_seconds[0] > least:
            continue
        try:
            layout = resident.with_msp(ends)
            for stage in layout.end_stages:  # they help most, the last as the pipeline fills
                stage_problem(layout, stage).require_room()
            split = plan_of(layout, choose)
        except LayoutDoesNotFit as short:
            shorts.append(short)
            continue
        if split.msp_splits and split.makespan_seconds < least:
            best = MspResult(plan=split, layout=layout)
    if best is None:
        reason = "its subsequences are too short for slices"
        if shorts:
            reason = f"short by {min(shorts, key=lambda short: short.bytes)}"
        if wanted:
            raise Infeasible(f"{plan.workload}: no plan with MSP fits: {reason}; leave --msp out")
        return MspResult(plan=plan, notes=(f"no MSP: {reason}",))
    gain = plan.makespan_seconds / best.plan.makespan_seconds - 1
    if gain <= 0 and not wanted:
        return MspResult(plan=plan, notes=(f"no MSP: simulated {-gain:.1%} slower with it",))
    return MspResult(plan=best.plan, layout=best.layout, notes=(_gain(plan, best.plan, gain),))


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


def _candidates(plan: Plan, layouts: Sequence[TimedLayout]) -> list[tuple[TimedLayout, Ends]]:
    """The layouts to try, and when they split: first the plan's family, then those of least work.

    Of the plan's family: its cut and the next coarser ones. Of the other families: the fastest cut.
    With MSP little is left of the idle ends, so that work alone tells families apart.
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
    ends: tuple[Ends, ...] = ("fill", "both")
    return [*itertools.product([*cuts[:COARSER], *fastest], ends)]
