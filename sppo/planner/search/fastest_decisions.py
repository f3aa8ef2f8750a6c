"""The decisions of all stages of one layout that make its simulated step shortest. No torch.

The decisions of the least added time need not be the fastest: time that a stage adds where it
waits for others anyway is free. Near the best step so far, all kinds of decisions are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sppo.memory_model.decisions import StageDecisions
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.activations.stage_times import StageTimes
from sppo.planner.evaluate import Choose, StageKind, stage_kind, stage_problem
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.search.bounds import chains, decided_bound_ns
from sppo.planner.search.quick_step import quick_step_ns

NEAR = 1.01
"""Steps up to so many times the best one are tried with further decisions."""

Alternatives = Callable[[StageProblem], Sequence[StageDecisions | None]]
"""Decisions of a stage by kind, None where a kind does not fit; all stages have the same kinds."""


@dataclass(frozen=True, kw_only=True)
class DecidedStep:
    """The simulated step of a layout in ns, without sums over replicas, and each stage's decisions.

    simulated: else `ns` is a lower bound only. adds_nothing: the decisions add no time to compute.
    """

    ns: int
    decisions: tuple[StageDecisions, ...]
    times: tuple[StageTimes, ...]
    simulated: bool = True
    adds_nothing: bool = False


def fastest_decisions(
    layout: TimedLayout, choose: Choose, alternatives: Alternatives | None, best_seconds: float
) -> DecidedStep:
    """The step with the chosen decisions, or with the same alternative on every stage.

    A step of `best_seconds` is known. Raises LayoutDoesNotFit.
    """
    stages = _Stages(layout)
    chosen = {kind: _fitting(problem, choose) for kind, problem in stages.problems.items()}
    best = stages.step(chosen, best_seconds)
    added = max(stages.problems[kind].added_ns(rows) for kind, rows in chosen.items())
    if not added:
        return replace(best, adds_nothing=True)
    if alternatives is None or not best.simulated or best.ns / 1e9 > NEAR * best_seconds:
        return best
    for decisions in _alternatives(stages, alternatives, chosen):
        step = stages.step(decisions, min(best_seconds, best.ns / 1e9))
        if step.simulated and step.ns < best.ns:
            best = step
    return best


def _fitting(problem: StageProblem, choose: Choose) -> StageDecisions:
    problem.require_room()
    decisions = choose(problem)
    problem.require_fit(problem.memory(decisions))
    return decisions


ByKind = dict[StageKind, StageDecisions]


def _alternatives(stages: _Stages, alternatives: Alternatives, chosen: ByKind) -> Iterator[ByKind]:
    """The same kind of decisions on all stages; the chosen ones where that kind does not fit."""
    by_kind = {kind: alternatives(problem) for kind, problem in stages.problems.items()}
    for row in zip(*by_kind.values(), strict=True):
        if any(decisions is not None for decisions in row):
            pairs = zip(by_kind, row, strict=True)
            yield {
                kind: chosen[kind] if decisions is None else decisions for kind, decisions in pairs
            }


class _Stages:
    """The stages of a layout, of which equal ones are decided and timed once."""

    def __init__(self, layout: TimedLayout) -> None:
        self.layout = layout
        self.kinds: list[StageKind] = []
        self.problems: dict[StageKind, StageProblem] = {}
        known = {chain.problem.stage: chain.problem for chain in chains(layout)}
        for stage in range(layout.pipeline_parallel):
            problem = known.get(stage) or stage_problem(layout, stage)
            self.kinds.append(stage_kind(problem))
            self.problems.setdefault(self.kinds[-1], problem)

    def step(self, decisions: ByKind, best_seconds: float) -> DecidedStep:
        """The step, or only its lower bound where that is no better than the best."""
        times = {kind: self.problems[kind].times(rows) for kind, rows in decisions.items()}
        by_stage = tuple(decisions[kind] for kind in self.kinds)
        rows = tuple(times[kind] for kind in self.kinds)
        bound = max(
            decided_bound_ns(chain, times[self.kinds[chain.problem.stage]])
            for chain in chains(self.layout)
        )
        if bound / 1e9 >= best_seconds:
            return DecidedStep(ns=bound, decisions=by_stage, times=rows, simulated=False)
        return DecidedStep(ns=quick_step_ns(self.layout, rows), decisions=by_stage, times=rows)
