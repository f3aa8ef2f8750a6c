"""Whether multiplexed sequence partitioning (MSP, paper sec. 6.2) pays: plans with and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from sppo.config.errors import HOST_MEMORY, Infeasible, LayoutDoesNotFit
from sppo.plan.blocks import gradient_element_bytes
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
from sppo.planner.search.msp_candidates import (
    ByCut,
    MspCandidate,
    both_ends,
    by_cut,
    candidates_of,
    cut_of,
    of_other_ulysses_degrees,
)
from sppo.planner.search.quick_msp import decided_msp_ns

OPTIMISM = 0.97
"""Simulated step over its estimate, before any was simulated: MSP also balances the stages."""

SPREAD = 0.985
"""Further steps of a family over their estimates: at least so many times the least simulated."""

LIKE = 0.995
"""The same of a cut with other Ulysses degrees: their times differ less."""

HOSTED_TRIALS = 3
"""Layouts with hosted K and V in a row that are simulated and not faster than the best so far."""


@dataclass(frozen=True, kw_only=True)
class MspResult:
    """The faster plan, and why. `layout` is the plan's if it has MSP, else None."""

    plan: Plan
    layout: TimedLayout | None = None
    notes: tuple[str, ...] = ()


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
    resident, hosted = (
        [] if wanted is False else candidates_of(plan, layouts, near, hosted=hosted, every=wanted)
        for hosted in (False, True)
    )
    if not resident and not hosted:
        if wanted:
            raise ValueError(f"no MSP: {_impossible(plan)}")
        return MspResult(plan=plan)
    least = float("inf") if wanted else plan.makespan_seconds
    trials = _Trials(choose, least, by_cut(layouts))
    trials.run(resident)
    if not resident or trials.shorts or plan.kv_block_tokens:  # copies pay only for memory
        trials.run(hosted, HOSTED_TRIALS)
    if trials.best is not None and not trials.best.layout.kv_block_tokens:
        trials.run(of_other_ulysses_degrees(trials.best.layout, layouts))
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

    candidate: MspCandidate
    layout: TimedLayout
    stages: Sequence[DecidedStage]
    seconds: float


class _Trials:
    """Candidates as they are simulated. least: seconds that a plan must not exceed."""

    def __init__(self, choose: Choose, least: float, degrees: ByCut) -> None:
        self.choose = choose
        self.least = least
        self._degrees = degrees
        self.best: _Split | None = None
        self.shorts: list[LayoutDoesNotFit] = []
        self.slowest = float("inf")
        """The least estimate that was too slow to try."""
        self._tried: set[tuple[int, Ends]] = set()
        self._ratios: dict[tuple[object, ...], float] = {}
        self._of_cuts: dict[tuple[object, ...], float] = {}

    def run(self, candidates: Sequence[MspCandidate], patience: int | None = None) -> None:
        """Simulate those whose estimates promise to be faster, the least estimate first.

        What memory adds is asked where a candidate may be next. patience: simulated ones in a row
        that are not faster, after which the rest is left out.
        """
        candidates = list(candidates)
        slower = 0
        waiting = [(each.alone, number, False) for number, each in enumerate(candidates)]
        heapify(waiting)
        while waiting and (patience is None or slower < patience):
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
            key = id(candidate.unsplit), candidate.ends
            if key in self._tried:
                continue
            self._tried.add(key)
            least = self.least
            try:
                if self._simulate(candidate):
                    slower = slower + 1 if self.least == least else 0
            except LayoutDoesNotFit as short:
                self.shorts.append(short)
                for leaner in [] if short.of_host else self._leaner(candidate):
                    heappush(waiting, (leaner.alone, len(candidates), False))
                    candidates.append(leaner)

    def _leaner(self, candidate: MspCandidate) -> list[MspCandidate]:
        """The next smaller Ulysses degree: fewer ranks with the same weights leave more memory."""
        own = candidate.unsplit
        smaller = [
            layout
            for layout in self._degrees[cut_of(own)]
            if layout.ulysses_parallel < own.ulysses_parallel
        ]
        return both_ends(smaller[:1], (candidate.ends,))

    def _simulate(self, candidate: MspCandidate) -> bool:
        """Whether there is something to split. Raises LayoutDoesNotFit."""
        _require_room_for_whole_prefixes(candidate)
        layout = candidate.unsplit.with_msp(candidate.ends)
        if not layout.msp_splits:
            return False
        for stage in layout.end_stages:  # they help most, the last as the pipeline fills
            stage_problem(layout, stage).require_room()
        stages = decided_stages(layout, self.choose)
        seconds = decided_msp_ns(layout, stages) / 1e9 + layout.reduction_seconds
        if candidate.unsplit.pipeline_parallel > 2:  # two stages are soon simulated
            ratio = seconds / candidate.estimate
            _keep_least(self._ratios, candidate.kind, SPREAD * ratio)
            _keep_least(self._of_cuts, candidate.cut, LIKE * ratio)
        if self.best is None or seconds < self.best.seconds:
            self.best = _Split(candidate=candidate, layout=layout, stages=stages, seconds=seconds)
            self.least = min(self.least, seconds)
        return True


def _require_room_for_whole_prefixes(candidate: MspCandidate) -> None:
    """Raise LayoutDoesNotFit if the first stage's host tier is too small for those it helps.

    Where the pipeline drains, the first stage has K and V of a chunk of every other stage.
    """
    layout, host = candidate.unsplit, candidate.unsplit.workload.host_memory_bytes
    if not layout.kv_block_tokens or candidate.ends == "fill" or host is None:
        return
    size = layout.workload.element_bytes
    tokens = layout.starts_tokens[-1]
    a_chunk = layout.shapes[-1 - layout.head_alone].kv_bytes(
        tokens, size + gradient_element_bytes(size)
    )
    excess = a_chunk * (layout.pipeline_parallel - 1) - host
    if excess > 0:
        raise LayoutDoesNotFit(excess, HOST_MEMORY)


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
    if (split.virtual_stages, split.sharding_words) != (plan.virtual_stages, plan.sharding_words):
        chunks = counted(plan.virtual_stages, "model chunk")
        without = f" ({plan.sharding_words}, {chunks} a stage, N {plan.subsequences})"
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
    return "owners send whole blocks, but have pieces; leave --weights out"
