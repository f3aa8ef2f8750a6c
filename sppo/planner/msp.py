"""Whether multiplexed sequence partitioning pays: plans with it against the best one without."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sppo.config.errors import Infeasible, Short
from sppo.memory_model.model_state import fixed_bytes
from sppo.plan.blocks import gradient_element_bytes
from sppo.plan.plan import Plan
from sppo.planner.evaluate import Choose, plan_of
from sppo.planner.layouts.timed_layout import Ends, TimedLayout

COARSER = 3
"""Cuts that are tried with lending: the plan's own and the next coarser ones.

Idle ends are what makes a fine cut worth its price; without them a coarser one may be faster.
"""


OTHER_FAMILIES = 2
"""Degrees and parts a stage, besides the plan's own, that are tried with lending."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """The faster plan; its layout where it lends (else the caller's own holds); and why."""

    plan: Plan
    layout: TimedLayout | None = None
    notes: tuple[str, ...] = ()


def with_msp(
    plan: Plan, layouts: Sequence[TimedLayout], choose: Choose, wanted: bool | None
) -> Weighed:
    """The faster of `plan` and what it becomes when its stages lend (`wanted` decides if given).

    Raises ValueError where lending is asked for and impossible, Infeasible where it does not fit.
    """
    if wanted is False:
        return Weighed(plan=plan)
    candidates = _candidates(plan, layouts)
    if not candidates:
        if wanted:
            raise ValueError(f"no MSP: {_impossible(plan)}")
        return Weighed(plan=plan)
    best: tuple[Plan, TimedLayout] | None = None
    shorts: list[Short] = []
    for resident, ends in candidates:
        if best is not None and resident.work_and_ends_seconds[0] > best[0].makespan_seconds:
            continue
        try:
            _require_room(resident, ends)
            layout = resident.msp_split(ends)
            lent = plan_of(layout, choose)
        except Short as short:
            shorts.append(short)
            continue
        faster = best is None or lent.makespan_seconds < best[0].makespan_seconds
        if lent.msp_splits and faster:
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


def _require_room(layout: TimedLayout, lent: Ends) -> None:
    """Raise Short where what the outermost ranks borrow of K, V, dK and dV is too much already.

    The last rank helps all others as the pipeline fills, the first one as it drains.
    """
    limit = layout.workload.device_memory_bytes
    if limit is None:
        return
    stages, count = layout.pipeline_parallel, layout.subsequences
    size = layout.workload.element_bytes
    blocks = [shape for shape in layout.shapes if shape.layers]
    ends = [*itertools.accumulate(layout.lengths_tokens)]
    filled = [ends[min(stages - 1 - part, count) - 1] for part in range(stages - 1)]
    borrowed = [(stages - 1, list(zip(blocks, filled, strict=False)))]
    if lent == "both":
        borrowed.append((0, [(shape, ends[-1]) for shape in blocks[-(stages - 1) :]]))
    for rank, parts in borrowed:
        total = fixed_bytes(layout.shapes[rank::stages], ends[-1])
        for shape, end in parts:
            total += shape.kv_bytes(end, size) + shape.kv_bytes(end, gradient_element_bytes(size))
        if total > limit:
            raise Short(total - limit, "device memory for model state, KV and dKV alone")


def _why(plan: Plan, lent: Plan, gain: float) -> str:
    where = "the first end" if all(one.fills for one in lent.msp_splits) else "both ends"
    cut = "" if lent.lengths_tokens == plan.lengths_tokens else f" with N {plan.subsequences}"
    parts = lent.virtual_stages == plan.virtual_stages
    if not parts or lent.degrees_words != plan.degrees_words:
        cut = f" ({plan.degrees_words}, {plan.virtual_stages} parts a stage, N {plan.subsequences})"
    return (
        f"MSP at {where}: simulated {gain:+.1%} faster than without it{cut}; idle "
        f"{lent.bubble_share:.1%} instead of {plan.bubble_share:.1%}"
    )


def _impossible(plan: Plan) -> str:
    if plan.pipeline_parallel == 1:
        return "a single stage never waits; take --pp 2 or more"
    if plan.kv_sets > 1:
        return "the sequences of a step are mixed and fill the pipeline; take one sequence a step"
    return "K and V lie in the host tier, and are not lent from there; shorten the sequence"


def _candidates(plan: Plan, layouts: Sequence[TimedLayout]) -> list[tuple[TimedLayout, Ends]]:
    """What to try, and where it lends: first the plan's own family, then those of least work.

    Of its own family the plan's cut and the next coarser ones, of others the fastest cut. Little is
    left of the idle ends, so that work alone tells families apart.
    """
    possible = [
        layout
        for layout in layouts
        if layout.pipeline_parallel > 1 and layout.kv_sets == 1 and not layout.kv_block_tokens
    ]
    families: dict[tuple[int, ...], list[TimedLayout]] = {}
    for layout in possible:
        families.setdefault(layout.family, []).append(layout)
    own = next((name for name, group in families.items() if _is_of(plan, group)), None)
    others = [name for name in families if name != own]
    others.sort(key=lambda name: min(one.work_and_ends_seconds[0] for one in families[name]))
    found = []
    for name in [*([own] if own else []), *others[:OTHER_FAMILIES]]:
        cuts = sorted(families[name], key=lambda one: one.least_seconds)
        count = plan.subsequences if name == own else cuts[0].subsequences
        alike = [
            one
            for one in families[name]
            if one.subsequences < count
            or (one.lengths_tokens == plan.lengths_tokens if name == own else one == cuts[0])
        ]
        alike.sort(key=lambda one: -one.subsequences)
        found += alike[: COARSER if name == own else 1]
    ends: tuple[Ends, ...] = ("fill", "both")
    return [(layout, where) for layout in found for where in ends]


def _is_of(plan: Plan, family: Sequence[TimedLayout]) -> bool:
    layout = family[0]
    return (
        layout.sequence_parallel == plan.sequence_parallel
        and layout.pipeline_parallel == plan.pipeline_parallel
        and layout.data_parallel == plan.data_parallel
        and layout.virtual_stages == plan.virtual_stages
    )
