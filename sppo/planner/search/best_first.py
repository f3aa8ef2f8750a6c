"""The search itself: layouts by their lower bounds, the least first, until none can be faster.

A layout's first bound is its compute alone. Before it is simulated, the least time that memory
adds sharpens the bound. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush

from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.planner.activations.stage_problem import StageProblem, require_room
from sppo.planner.evaluate import Choose
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.search.bounds import (
    added_at_least,
    bounding_problems,
    bounding_stages,
    chains,
    compute_bound_ns,
)
from sppo.planner.search.fastest_decisions import Alternatives, DecidedStep, fastest_decisions
from sppo.planner.search.log import Search

Require = Callable[[StageProblem], None]
"""Raises LayoutDoesNotFit if no decisions of a stage fit."""


@dataclass(frozen=True, kw_only=True)
class Decide:
    """How a layout's stages are decided.

    choose: the decisions of a stage. alternatives: further ones that may be faster.
    require: a quick test whether any fit. weighs_memory: whether all decisions are among
    those that `least_added` bounds.
    """

    choose: Choose
    alternatives: Alternatives | None = None
    require: Require | None = None
    weighs_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Best:
    """The layout of the least simulated step and its decisions, by stage."""

    layout: TimedLayout
    step: DecidedStep
    search: Search


def search(layouts: Sequence[TimedLayout], decide: Decide, most: int) -> Best:
    """The least simulated step of the layouts; at most `most` of them are simulated.

    Ends where no bound is below the best step. With hosted K and V the finest cut needs the least
    device memory: where it does not fit, its family is skipped. Raises Infeasible.
    """
    return _BestFirst(layouts, decide, most).run()


def _cut_of(layout: TimedLayout) -> tuple[object, ...]:
    """A layout without the place of K and V."""
    return (*layout.family[:-1], layout.lengths_tokens)


def _whole(layout: TimedLayout) -> tuple[object, ...]:
    """A layout without the choice between whole and sharded weights."""
    return (*layout.degrees, layout.virtual_stages, layout.kv_block_tokens, layout.lengths_tokens)


class _BestFirst:
    """A search under way."""

    def __init__(self, layouts: Sequence[TimedLayout], decide: Decide, most: int) -> None:
        bounds = [compute_bound_ns(layout) / 1e9 + layout.reduction_seconds for layout in layouts]
        self.decide = decide
        self.left = most
        self.log = Search(layouts=layouts, bounds=bounds)
        self.waiting = [(bound, number, False) for number, bound in enumerate(bounds)]
        self.best: tuple[TimedLayout, DecidedStep] | None = None
        self.least = float("inf")
        self.hosted: dict[tuple[object, ...], float] = {}
        """Lower bounds with hosted K and V, of layouts that fit without any cost: only the zeroing
        of dK and dV can be saved."""
        self.fit_whole: dict[tuple[object, ...], float] = {}
        """Seconds of layouts with whole weights that fit without any cost: pieces save nothing."""

    def run(self) -> Best:
        heapify(self.waiting)
        while self.waiting and self.left > 0:
            bound, number, is_sharp = heappop(self.waiting)
            if bound >= self.least:
                break
            layout = self.log.layouts[number]
            if self.log.hopeless.get(layout.family) or self._is_slower_hosted(layout):
                continue
            if layout.sharded_weights and _whole(layout) in self.fit_whole:
                self.log.bounds[number] = max(bound, self.fit_whole[_whole(layout)])
                continue
            try:
                if is_sharp or not self.decide.weighs_memory:
                    self._simulate(layout, number)
                else:
                    self._sharpen(layout, number)
            except LayoutDoesNotFit as short:
                self._log_short(layout, short)
        if self.best is None:
            raise self._infeasible()
        return Best(layout=self.best[0], step=self.best[1], search=self.log)

    def _is_slower_hosted(self, layout: TimedLayout) -> bool:
        hosted = bool(layout.kv_block_tokens)
        return hosted and self.hosted.get(_cut_of(layout), 0.0) >= self.least

    def _sharpen(self, layout: TimedLayout, number: int) -> None:
        """Put the layout back with a bound that counts memory. Raises LayoutDoesNotFit."""
        for stage in bounding_stages(layout):  # without costs, which take longer
            require_room(layout.workload, layout, stage, layout.stage_shapes(stage))
        added_ns = []
        for problem in bounding_problems(layout):
            added = added_at_least(layout, problem)
            added.require_fit(problem)
            added_ns.append(added.ns)
        pairs = zip(chains(layout), added_ns, strict=True)
        least = max(chain.step_ns(ns) for chain, ns in pairs)
        bound = max(self.log.bounds[number], least / 1e9 + layout.reduction_seconds)
        self.log.bounds[number] = bound
        heappush(self.waiting, (bound, number, True))

    def _simulate(self, layout: TimedLayout, number: int) -> None:
        """Raises LayoutDoesNotFit."""
        limit = self.least - layout.reduction_seconds
        step = fastest_decisions(layout, self.decide.choose, self.decide.alternatives, limit)
        self.log.hopeless[layout.family] = False
        self.left -= 1
        if step.adds_nothing and not layout.kv_block_tokens:
            zeroing = layout.sequences * sum(times.clear for times in step.times)
            self.hosted[_cut_of(layout)] = (step.ns - zeroing) / 1e9 + layout.reduction_seconds
        seconds = step.ns / 1e9 + layout.reduction_seconds
        if step.adds_nothing and not layout.sharded_weights:
            self.fit_whole[_whole(layout)] = seconds
        if not step.simulated:
            self.log.bounds[number] = seconds
            return
        self.log.seconds[layout] = seconds
        if seconds < self.least:
            self.least = seconds
            self.best = layout, step

    def _log_short(self, layout: TimedLayout, short: LayoutDoesNotFit) -> None:
        self.log.short[layout] = short
        if layout.kv_block_tokens and layout.family not in self.log.hopeless:
            self.log.hopeless[layout.family] = self._is_hopeless(layout)

    def _is_hopeless(self, layout: TimedLayout) -> bool:
        """Whether the finest cut of the layout's family does not fit."""
        finest = self._finest[layout.family]
        try:
            problems = [
                each for each in bounding_problems(finest) if each.stage in finest.end_stages
            ]
            for problem in problems:
                problem.require_room()
                if self.decide.weighs_memory:
                    added_at_least(finest, problem).require_fit(problem)
            for problem in problems:
                self._require_decisions(problem)
        except LayoutDoesNotFit as short:
            self.log.short[finest] = short
            return True
        return False

    @cached_property
    def _finest(self) -> dict[tuple[int, ...], TimedLayout]:
        """Of every family the cut of the most subsequences."""
        finest: dict[tuple[int, ...], TimedLayout] = {}
        for layout in self.log.layouts:
            known = finest.setdefault(layout.family, layout)
            if layout.subsequences > known.subsequences:
                finest[layout.family] = layout
        return finest

    def _require_decisions(self, problem: StageProblem) -> None:
        """Raise LayoutDoesNotFit unless some decisions fit; a quick test comes first."""
        if self.decide.require is not None:
            with suppress(LayoutDoesNotFit):
                self.decide.require(problem)
                return
        problem.require_fit(problem.memory(self.decide.choose(problem)))

    def _infeasible(self) -> Infeasible:
        short = self.log.short
        nearest = min(self.log.finest_short, key=lambda layout: short[layout].bytes)
        return Infeasible(
            f"{nearest.workload.name}: no plan fits; the nearest, {nearest}, is short by "
            f"{short[nearest]}. Raise the device or host memory, use more ranks, or "
            f"shorten the sequence"
        )
