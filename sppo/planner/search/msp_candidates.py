"""The layouts that are tried with MSP, in the order of their estimates. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import inf

from sppo.plan.layout import Layout
from sppo.plan.plan import Plan
from sppo.planner.activations.stage_times import hosted_kv_seconds
from sppo.planner.layouts.timed_layout import Ends, TimedLayout
from sppo.planner.search.bounds import added_at_least, bounding_problems

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

HOSTED_STAGE_SUBSEQUENCES = 512
"""Stages times subsequences, at most, of a layout with hosted K and V that is tried with MSP.

Decisions for more take seconds, and their K and V have left too little of the host tier so far.
"""

COARSEST = 1.5
"""Subsequences for each stage, at least, of a layout that is tried for its estimate alone."""


@dataclass(frozen=True, kw_only=True)
class MspCandidate:
    """A layout without MSP, when it shall split, and its estimated seconds with MSP."""

    unsplit: TimedLayout
    ends: Ends
    alone: float
    """Without what memory adds."""

    @cached_property
    def estimate(self) -> float:
        """Seconds, with the least that memory adds, and with copies of hosted K and V."""
        return self.alone + _added(self.unsplit) + _copied(self.unsplit)

    @property
    def kind(self) -> tuple[object, ...]:
        """Candidates of a kind have about the same step over their estimates."""
        return (*self.unsplit.family, self.ends)

    @property
    def cut(self) -> tuple[object, ...]:
        """The same for any Ulysses degree, of one number of subsequences."""
        return (_for_any_ulysses(self.unsplit), self.unsplit.subsequences, self.ends)


ByCut = dict[tuple[object, ...], list[TimedLayout]]
"""Layouts that differ in the Ulysses degree alone, the largest degree first."""


def cut_of(layout: Layout) -> tuple[object, ...]:
    """Equal for layouts that differ in the Ulysses degree alone."""
    return (_for_any_ulysses(layout), layout.lengths_tokens)


def by_cut(layouts: Iterable[TimedLayout]) -> ByCut:
    """The layouts that may split."""
    groups: ByCut = {}
    for layout in layouts:
        if layout.may_split:
            groups.setdefault(cut_of(layout), []).append(layout)
    for group in groups.values():
        group.sort(key=lambda layout: -layout.ulysses_parallel)
    return groups


def candidates_of(
    plan: Plan,
    layouts: Sequence[TimedLayout],
    near: Sequence[TimedLayout],
    *,
    hosted: bool,
    every: bool | None = False,
) -> list[MspCandidate]:
    """The layouts to try, with K and V in the host tier or not, and when they split.

    every: also hosted ones whose decisions take seconds.

    Of the plan's family, or of the fastest that can split where the plan cannot: its cut and the
    next coarser ones. Of the other families: the fastest cut.
    Of all: those near the plan, and those of the least estimate. With MSP little is left of the
    idle ends, so that work alone tells families apart.
    """
    able = _that_may_split(layouts, hosted, every)
    if not able:
        return []
    base: Layout = replace(plan, sharded_weights=False)  # owners have whole weights
    if not any(layout.family[:-1] == base.family[:-1] for layout in able):
        base = min(able, key=lambda layout: layout.least_seconds)
    tried: dict[int, TimedLayout] = {}
    for exchanges in (False, True):
        members = [layout for layout in able if (layout.ulysses_parallel > 1) == exchanges]
        tried |= {id(layout): layout for layout in _of_division(base, members)}
    close = _that_may_split(near, hosted, every)
    tried |= {id(layout): layout for layout in close[:FASTEST]}
    return both_ends(tried.values(), ("fill", "both"))


def _that_may_split(
    layouts: Iterable[TimedLayout], hosted: bool, every: bool | None
) -> list[TimedLayout]:
    """Those with K and V in one of the tiers; of hosted ones `every`, or those soon decided."""
    most = HOSTED_STAGE_SUBSEQUENCES if hosted and not every else inf
    return [
        layout
        for layout in layouts
        if layout.may_split
        and bool(layout.kv_block_tokens) == hosted
        and layout.pipeline_parallel * layout.subsequences <= most
    ]


def _of_division(plan: Layout, layouts: Sequence[TimedLayout]) -> Iterator[TimedLayout]:
    """The layouts to try of those with all-to-alls inside a stage, or of those without."""
    own: list[TimedLayout] = []
    families: dict[tuple[int, ...], list[TimedLayout]] = {}
    for layout in layouts:
        if layout.family[:-1] == plan.family[:-1]:  # its K and V may be in the host tier
            own.append(layout)
        else:
            families.setdefault(layout.family, []).append(layout)
    yield from _coarser(own, plan)
    ranked = sorted(
        families.values(), key=lambda family: min(cut.work_and_ends_seconds[0] for cut in family)
    )
    for family in ranked[:OTHER_FAMILIES]:
        yield min(family, key=lambda cut: cut.least_seconds)
    every = [
        layout for layout in layouts if layout.subsequences >= COARSEST * layout.pipeline_parallel
    ]
    yield from sorted(every, key=lambda layout: _time_alone(layout, "both"))[:FASTEST]


def _for_any_ulysses(layout: Layout) -> tuple[int, ...]:
    """The layout's family without its Ulysses degree."""
    return (*layout.family[:3], *layout.family[4:])


def _coarser(cuts: Sequence[TimedLayout], plan: Layout) -> list[TimedLayout]:
    """The cut of `plan` and the next coarser ones."""
    coarser = [
        cut
        for cut in cuts
        if cut.subsequences < plan.subsequences or cut.lengths_tokens == plan.lengths_tokens
    ]
    return sorted(coarser, key=lambda cut: -cut.subsequences)[:COARSER]


def of_other_ulysses_degrees(
    split: TimedLayout, layouts: Sequence[TimedLayout]
) -> list[MspCandidate]:
    """The same for the other Ulysses degrees: an estimate cannot see what their MSP needs."""
    degrees: dict[int, list[TimedLayout]] = {}
    for layout in layouts:
        if layout.may_split and _for_any_ulysses(layout) == _for_any_ulysses(split):
            degrees.setdefault(layout.ulysses_parallel, []).append(layout)
    others = [cut for cuts in degrees.values() for cut in _coarser(cuts, split)]
    return both_ends(others, ("fill", "both"))


def both_ends(layouts: Iterable[TimedLayout], ends: Sequence[Ends]) -> list[MspCandidate]:
    return [
        MspCandidate(unsplit=layout, ends=end, alone=_time_alone(layout, end))
        for layout, end in product(layouts, ends)
    ]


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
    problems = [each for each in bounding_problems(layout) if each.stage in layout.end_stages]
    added = [added_at_least(layout, problem).ns for problem in problems]
    return layout.sequences * max(added) / 1e9


def _copied(layout: TimedLayout) -> float:
    """Seconds that copies of hosted K and V add to a stage."""
    model = layout.workload.model
    a_block = sum(map(sum, hosted_kv_seconds(layout, model, layout.profile)))
    return layout.sequences * model.layers / layout.pipeline_parallel * a_block
