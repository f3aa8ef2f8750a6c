"""(workload, ranks, profile) -> Plan: SP, PP, N, the cut and every tensor's decision, with reasons.

Three solvers share one cost model. "heuristic" (default) tries layouts in the order of their
compute time. Each stage gets the cheapest decisions that fit (`planner/activations/policies.py`),
and the schedule that would run is simulated; the least makespan wins. "exact" decides by an
integer program (`planner/activations/integer_program.py`). "paper" is the paper's own heuristic
(`paper_heuristic.py`). Memory is the whole model of `memory_model/model_state.py`, KV and dKV
accumulators included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.memory_model.decisions import StageDecisions
from sppo.plan.plan import Plan
from sppo.planner.activations import policies
from sppo.planner.activations.feasibility import require_host_room, require_some_decisions
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.divisions import fastest_division
from sppo.planner.evaluate import Choose, plan_of, stage_problem
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.msp import with_msp
from sppo.planner.options import SolverOptions
from sppo.planner.search_log import Search

SIMULATED = 12
"""Layouts of a Ulysses degree that fit and are simulated, best first, before the search stops."""

CRAMPED = 1.1
"""Makespan over the least compute time of any layout, beyond which hosted K and V are tried too."""

REJECTED = 12
"""Layouts that did not fit and are named in a plan."""


def solve(workload: Workload, profile: Hardware, options: SolverOptions | None = None) -> Plan:
    """The plan of the least simulated makespan that fits the device and host memory.

    Raises Infeasible (which resource is short, by how much, and the longest sequence that fits), or
    ValueError for options that allow no layout.
    """
    options = options or SolverOptions()
    try:
        return fastest_division(workload, profile, options, _fastest)
    except Infeasible as error:
        if options.msp:  # the longest sequence is that of plans without MSP
            raise
        from sppo.planner.longest import longest_words

        raise Infeasible(f"{error}; {longest_words(workload, profile, options)}") from None


def _fastest(workload: Workload, profile: Hardware, options: SolverOptions) -> Plan:
    """The faster of a plan with K and V on the device and, if memory is tight, on the host."""
    if options.msp and options.kv_offload is None:  # an owner cannot share K and V of the host tier
        options = replace(options, kv_offload=False)
    if options.kv_offload is not None or options.solver == "paper":
        return _solve(workload, profile, options)
    hosted = _HostedPlan(workload, profile, replace(options, kv_offload=True))
    rival = hosted.seconds if options.solver == "heuristic" else None
    try:
        resident = _solve(workload, profile, replace(options, kv_offload=False), rival)
    except Infeasible:
        return hosted.plan()
    if hosted.worth_a_try(resident.makespan_seconds):
        with suppress(Infeasible):
            return min(resident, hosted.plan(), key=lambda plan: plan.makespan_seconds)
    return resident


Rival = Callable[[float], float]
"""From the seconds of a plan to those of a rival plan; infinity if there is no rival."""


@dataclass(frozen=True)
class _HostedPlan:
    """The plan with K and V in the host tier, made on first use."""

    workload: Workload
    profile: Hardware
    options: SolverOptions

    def plan(self) -> Plan:
        """Raises Infeasible."""
        if isinstance(self._result, Infeasible):
            raise self._result
        return self._result

    @cached_property
    def _result(self) -> Plan | Infeasible:
        try:
            return _solve(self.workload, self.profile, self.options)
        except Infeasible as error:
            return error

    def worth_a_try(self, seconds: float) -> bool:
        """Whether a plan of so many seconds pays much for memory, so that the host tier may win."""
        limited = self.workload.device_memory_bytes is not None
        return limited and seconds > CRAMPED * self._least_seconds

    @cached_property
    def _least_seconds(self) -> float:
        layouts = every_layout(self.workload, self.profile, replace(self.options, kv_offload=None))
        return min(layout.least_seconds for layout in layouts)

    def seconds(self, seconds: float) -> float:
        """Of this plan's step; infinity if a plan of so many seconds leaves it no chance."""
        if self.worth_a_try(seconds):
            with suppress(Infeasible):
                return self.plan().makespan_seconds
        return float("inf")


def _solve(
    workload: Workload, profile: Hardware, options: SolverOptions, rival: Rival | None = None
) -> Plan:
    layouts = list(every_layout(workload, profile, options))
    layouts.sort(key=lambda layout: layout.least_seconds)
    if options.solver == "paper":
        from sppo.planner.paper_heuristic import solve_paper

        return solve_paper(workload, layouts)
    choose: Choose = partial(policies.choose, policy=options.policy)
    if options.policy == "auto":
        choose = _Bounded(choose)
    if options.solver == "exact":
        return _solve_exactly(layouts, choose)
    plan, layout, search = _search(layouts, choose, SIMULATED, rival)
    msp = with_msp(plan, layouts, choose, options.msp)
    if msp.layout is None:
        plan = _explained(plan, layout, search)
    else:
        plan = _explained(msp.plan, msp.layout, search, before=(plan, layout))
    return replace(plan, reasons=(*plan.reasons, *msp.notes))


def _solve_exactly(layouts: list[TimedLayout], choose: Choose) -> Plan:
    """The faster of the integer program's plan and the heuristic's, with the gap between them.

    The program minimises added time; the heuristic may place it where the pipeline waits anyway.
    """
    from sppo.planner.activations.integer_program import cheapest_decisions

    best = _explained(*_search(layouts, _Bounded(cheapest_decisions), len(layouts)))
    heuristic = _explained(*_search(layouts, choose, SIMULATED))
    best = min(best, heuristic, key=lambda plan: plan.makespan_seconds)
    gap = heuristic.makespan_seconds / best.makespan_seconds - 1
    note = f"exact over {len(layouts)} layouts; the heuristic's plan takes {gap:+.2%}"
    return replace(best, reasons=(*best.reasons, note))


def _explained(
    plan: Plan, layout: TimedLayout, search: Search, before: tuple[Plan, TimedLayout] | None = None
) -> Plan:
    """The plan with its reasons, and with the layouts that do not fit."""
    from sppo.planner.report.reasons import explain

    rejected = [f"{layout}: short of {short}" for layout, short in search.short.items()]
    if len(rejected) > REJECTED:
        rejected[REJECTED:] = [f"and {len(rejected) - REJECTED} more layouts"]
    reasons = explain(plan, layout, search, before)
    return replace(plan, reasons=reasons, rejected=tuple(rejected))


@dataclass(frozen=True)
class _Bounded:
    """A choice among all decisions, which fails early where the host tier is too small."""

    choose: Choose

    def __call__(self, problem: StageProblem) -> StageDecisions:
        require_host_room(problem)
        return self.choose(problem)


def _search(
    layouts: list[TimedLayout], choose: Choose, simulated: int, rival: Rival | None = None
) -> tuple[Plan, TimedLayout, Search]:
    """The least simulated makespan of the layouts, in their order; `simulated` of a Ulysses degree.

    Stops where a layout's compute alone takes longer than the best plan. Skips families whose
    finest cut does not fit, and layouts that cannot beat the rival. Raises Infeasible.
    """
    best: tuple[Plan, TimedLayout, Search] | None = None
    search = Search(layouts=layouts)
    least = limit = float("inf")
    hopeless: dict[tuple[int, ...], bool] = {}
    left = dict.fromkeys((layout.ulysses_parallel for layout in layouts), simulated)
    for layout in layouts:
        if hopeless.get(layout.family) or _seconds_with_msp(layout) >= limit:
            continue
        if best is not None and (not any(left.values()) or layout.least_seconds >= least):
            break
        if left[layout.ulysses_parallel] == 0:
            continue
        try:
            plan = plan_of(layout, choose)
        except LayoutDoesNotFit as short:
            search.short[layout] = short
            if layout.family not in hopeless:
                hopeless[layout.family] = _is_hopeless(layout, search, choose)
            continue
        hopeless[layout.family] = False
        if best is None and rival is not None:
            limit = rival(plan.makespan_seconds)
        left[layout.ulysses_parallel] -= 1
        search.seconds[layout] = plan.makespan_seconds
        if plan.makespan_seconds < least:
            least = plan.makespan_seconds
            best = plan, layout, search
    if best is None:
        nearest = min(search.finest_short, key=lambda layout: search.short[layout].bytes)
        raise Infeasible(
            f"{nearest.workload.name}: no plan fits; the nearest, {nearest}, is short by "
            f"{search.short[nearest]}. Raise the device or host memory, use more ranks, or "
            f"shorten the sequence"
        )
    return best


def _seconds_with_msp(layout: TimedLayout) -> float:
    """A lower bound for this layout's step; with MSP the idle ends may vanish."""
    return layout.work_and_ends_seconds[0] if layout.may_split else layout.least_seconds


def _is_hopeless(layout: TimedLayout, search: Search, choose: Choose) -> bool:
    """Whether the finest cut of this layout's family, which needs least memory, does not fit."""
    family = [member for member in search.layouts if member.family == layout.family]
    finest = max(family, key=lambda member: member.subsequences)
    try:
        for stage in finest.end_stages:
            problem = stage_problem(finest, stage)
            problem.require_room()
            _require_decisions(problem, choose)
    except LayoutDoesNotFit as short:
        search.short[finest] = short
        return True
    return False


def _require_decisions(problem: StageProblem, choose: Choose) -> None:
    """Raise LayoutDoesNotFit unless some decisions fit; a quick test comes first."""
    if isinstance(choose, _Bounded):
        with suppress(LayoutDoesNotFit):
            require_some_decisions(problem)
            return
    problem.require_fit(problem.memory(choose(problem)))
