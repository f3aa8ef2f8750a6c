"""Whether multiplexed sequence partitioning (MSP, paper sec. 6.2) pays: plans with and without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import product

from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.plan.layout import Layout
from sppo.plan.plan import Plan
from sppo.planner.evaluate import (
    Choose,
    DecidedStage,
    decided_stages,
    simulated_plan,
    stage_problem,
)
from sppo.planner.layouts.timed_layout import Ends, TimedLayout
from sppo.planner.report.wording import counted
from sppo.planner.search.bounds import added_at_least, bounding_problems
from sppo.planner.search.quick_msp import decided_msp_ns

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

LIKE = 0.995
"""The same of a cut with other Ulysses degrees: their times differ less."""

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
    alone: float
    """Without what memory adds."""

    @cached_property
    def estimate(self) -> float:
        """Seconds, with the least that memory adds."""
        return self.alone + _added(self.resident)

    @property
    def kind(self) -> tuple[object, ...]:
        """Candidates of a kind have about the same step over their estimates."""
        return (*self.resident.family, self.ends)

    @property
    def cut(self) -> tuple[object, ...]:
        """The same for any Ulysses degree, of one number of subsequences."""
        return (_for_any_ulysses(self.resident), self.resident.subsequences, self.ends)


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
    least = float("inf") if wanted else plan.makespan_seconds
    trials = _Trials(choose, least)
    trials.run(candidates)
    if trials.best is not None:
        trials.run(_of_other_ulysses_degrees(trials.best, layouts))
    if trials.best is None:
        return _without(plan, trials.shorts, trials.slowest, wanted)
    split = simulated_plan(trials.best.layout, trials.best.stages)
    gain = plan.makespan_seconds / split.makespan_seconds - 1
    if gain <= 0 and not wanted:
        return MspResult(plan=plan, notes=(f"no MSP: simulated {-gain:.1%} slower with it",))
    return MspResult(plan=split, layout=trials.best.layout, notes=(_gain(plan, split, gain),))


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A candidate's layout with MSP, its decisions and its simulated step."""

    candidate: _Candidate
    layout: TimedLayout
    stages: Sequence[DecidedStage]
    seconds: float


class _Trials:
    """Candidates as they are simulated. least: seconds that a plan must not exceed."""

    def __init__(self, choose: Choose, least: float) -> None:
        self.choose = choose
        self.least = least
        self.best: _Split | None = None
        self.shorts: list[LayoutDoesNotFit] = []
        self.slowest = float("inf")
        """The least estimate that was too slow to try."""
        self._tried: set[tuple[int, Ends]] = set()
        self._ratios: dict[tuple[object, ...], float] = {}
        self._of_cuts: dict[tuple[object, ...], float] = {}

    def run(self, candidates: Sequence[_Candidate]) -> None:
        """Simulate those whose estimates promise to be faster, the least estimate first.

        What memory adds is asked where a candidate may be next.
        """
        waiting = [(each.alone, number, False) for number, each in enumerate(candidates)]
        heapify(waiting)
        while waiting:
            _, number, is_sharp = heappop(waiting)
            candidate = candidates[number]
            known = candidate.estimate if is_sharp else candidate.alone
            ratio = self._ratios.get(candidate.kind, OPTIMISM)
            expected = known * max(ratio, self._of_cuts.get(candidate.cut, 0.0))
            if expected >= self.least:
                self.slowest = min(self.slowest, expected)
                continue
            if not is_sharp:
                heappush(waiting, (candidate.estimate, number, True))
                continue
            key = id(candidate.resident), candidate.ends
            if key in self._tried:
                continue
            self._tried.add(key)
            try:
                self._simulate(candidate)
            except LayoutDoesNotFit as short:
                self.shorts.append(short)

    def _simulate(self, candidate: _Candidate) -> None:
        """Raises LayoutDoesNotFit."""
        layout = candidate.resident.with_msp(candidate.ends)
        if not layout.msp_splits:
            return
        for stage in layout.end_stages:  # they help most, the last as the pipeline fills
            stage_problem(layout, stage).require_room()
        stages = decided_stages(layout, self.choose)
        seconds = decided_msp_ns(layout, stages) / 1e9 + layout.reduction_seconds
        if candidate.resident.pipeline_parallel > 2:  # two stages are soon simulated
            ratio = seconds / candidate.estimate
            _keep_least(self._ratios, candidate.kind, SPREAD * ratio)
            _keep_least(self._of_cuts, candidate.cut, LIKE * ratio)
        if self.best is None or seconds < self.best.seconds:
            self.best = _Split(candidate=candidate, layout=layout, stages=stages, seconds=seconds)
            self.least = min(self.least, seconds)


def _keep_least(
    ratios: dict[tuple[object, ...], float], key: tuple[object, ...], ratio: float
) -> None:
    ratios[key] = min(ratio, ratios.get(key, ratio))


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
    if plan.context_parallel > 1:
        return "ranks with the same heads gather K and V, and helpers do not; lower --sp"
    return "K and V are in the host tier, where helpers cannot read them; shorten the sequence"


def _candidates(
    plan: Plan, layouts: Sequence[TimedLayout], near: Sequence[TimedLayout]
) -> list[_Candidate]:
    """The layouts to try, and when they split.

    Of the plan's family, or of the fastest that can split where the plan cannot: its cut and the
    next coarser ones. Of the other families: the fastest cut.
    Of all: those near the plan, and those of the least estimate. With MSP little is left of the
    idle ends, so that work alone tells families apart.
    """
    able = [layout for layout in layouts if layout.may_split]
    if not able:
        return []
    base: Layout = plan
    if plan.pipeline_parallel == 1 or plan.context_parallel > 1:
        base = min(able, key=lambda layout: layout.least_seconds)
    tried: dict[int, TimedLayout] = {}
    for exchanges in (False, True):
        members = [layout for layout in able if (layout.ulysses_parallel > 1) == exchanges]
        tried |= {id(layout): layout for layout in _of_division(base, members)}
    close = [layout for layout in near if layout.may_split]
    tried |= {id(layout): layout for layout in close[:FASTEST]}
    return _both_ends(tried.values(), ("fill", "both"))


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


def _of_other_ulysses_degrees(best: _Split, layouts: Sequence[TimedLayout]) -> list[_Candidate]:
    """The same for the other Ulysses degrees: an estimate cannot see what their MSP needs."""
    split = best.layout
    degrees: dict[int, list[TimedLayout]] = {}
    for layout in layouts:
        if layout.may_split and _for_any_ulysses(layout) == _for_any_ulysses(split):
            degrees.setdefault(layout.ulysses_parallel, []).append(layout)
    others = [cut for cuts in degrees.values() for cut in _coarser(cuts, split)]
    return _both_ends(others, ("fill", "both"))


def _both_ends(layouts: Iterable[TimedLayout], ends: Sequence[Ends]) -> list[_Candidate]:
    return [
        _Candidate(resident=layout, ends=end, alone=_time_alone(layout, end))
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
