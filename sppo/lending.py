"""Whether multiplexed sequence partitioning pays: plans with it against the best one without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sppo.drafts import Choose, plan_of
from sppo.errors import Infeasible, Short
from sppo.layouts import Ends, Layout
from sppo.plan import Plan

COARSER = 3
"""Cuts that are tried with lending: the plan's own and the next coarser ones.

Idle ends are what makes a fine cut worth its price; without them a coarser one may be faster.
"""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """The faster plan; its layout where it lends (else the caller's own holds); and why."""

    plan: Plan
    layout: Layout | None = None
    notes: tuple[str, ...] = ()


def with_lending(
    plan: Plan, layouts: Sequence[Layout], choose: Choose, wanted: bool | None
) -> Weighed:
    """The faster of `plan` and what it becomes when its stages lend (`wanted` decides if given).

    Raises ValueError where lending is asked for and impossible, Infeasible where it does not fit.
    """
    if wanted is False:
        return Weighed(plan=plan)
    why_not = _impossible(plan)
    if why_not:
        if wanted:
            raise ValueError(f"no MSP: {why_not}")
        return Weighed(plan=plan)
    best: tuple[Plan, Layout] | None = None
    shorts: list[Short] = []
    for layout in _candidates(plan, layouts):
        try:
            lent = plan_of(layout, choose)
        except Short as short:
            shorts.append(short)
            continue
        faster = best is None or lent.makespan_seconds < best[0].makespan_seconds
        if lent.lendings and faster:
            best = lent, layout
    if best is None:
        words = "its subsequences are too short for slices"
        if shorts:
            words = f"short by {min(shorts, key=lambda short: short.bytes)}"
        if wanted:
            raise Infeasible(f"{plan.workload}: no plan with MSP fits: {words}; leave --msp out")
        return Weighed(plan=plan, notes=(f"no MSP: {words}",))
    gain = plan.makespan_seconds / best[0].makespan_seconds - 1
    if gain <= 0 and not wanted:
        why = f"no MSP: simulated {-gain:.1%} slower, lending included"
        return Weighed(plan=plan, notes=(why,))
    return Weighed(plan=best[0], layout=best[1], notes=(_why(plan, best[0], gain),))


def _why(plan: Plan, lent: Plan, gain: float) -> str:
    where = "the first end" if all(one.fills for one in lent.lendings) else "both ends"
    cut = "" if lent.lengths_tokens == plan.lengths_tokens else f" with N {plan.subsequences}"
    return (
        f"MSP at {where}: simulated {gain:+.1%} faster than without it{cut}; idle "
        f"{lent.bubble_share:.1%} instead of {plan.bubble_share:.1%}"
    )


def _impossible(plan: Plan) -> str:
    if plan.pipeline_parallel == 1:
        return "a single stage never waits; take --pp 2 or more"
    if plan.kv_sets > 1:
        return "the sequences of a step are mixed and fill the pipeline; take one sequence a step"
    if plan.kv_block_tokens:
        return "K and V lie in the host tier, and are not lent from there; shorten the sequence"
    return ""


def _candidates(plan: Plan, layouts: Sequence[Layout]) -> list[Layout]:
    """The plan's layout and those of its family with coarser cuts, finest first, with lending."""
    alike = [
        layout
        for layout in layouts
        if layout.sequence_parallel == plan.sequence_parallel
        and layout.pipeline_parallel == plan.pipeline_parallel
        and layout.data_parallel == plan.data_parallel
        and layout.virtual_stages == plan.virtual_stages
        and layout.kv_block_tokens == plan.kv_block_tokens
        and (layout.lengths == plan.lengths_tokens or len(layout.lengths) < plan.subsequences)
    ]
    alike.sort(key=lambda layout: -len(layout.lengths))
    ends: tuple[Ends, ...] = ("fill", "both")
    return [replace(layout, lends=where) for layout in alike[:COARSER] for where in ends]
