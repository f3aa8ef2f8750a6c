"""(workload, ranks, profile) -> Plan: SP, PP, N, the cut and every tensor's decision, with reasons.

Three solvers on one cost model. "heuristic" (default) tries layouts in the order of their compute
time, gives each stage the cheapest decisions that fit (`planner/activations/policies.py`) and
simulates the very schedule that would run; the least makespan wins. "exact" decides by an integer
program (`planner/activations/integer_program.py`). "paper" is the paper's own heuristic
(`paper_heuristic.py`). Memory is the whole model of `memory_model/model_state.py`, KV and dKV
accumulators included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from sppo.config.errors import Infeasible, Short
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.memory_model.stage_memory import StageDecisions
from sppo.plan.plan import Plan
from sppo.planner.activations import policies
from sppo.planner.activations.feasibility import require_host_room, require_some_fates
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.evaluate import Choose, plan_of, stage_problem
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.msp import with_msp
from sppo.planner.options import SolverOptions
from sppo.planner.search_log import Search

SIMULATED = 12
"""Layouts that fit and are simulated, best first, before the heuristic stops looking."""

CRAMPED = 1.1
"""Makespan over the least compute time of any layout, beyond which hosted K and V are tried too."""

REJECTED = 12
"""Layouts that did not fit and are named in a plan."""


def solve(workload: Workload, profile: Hardware, options: SolverOptions | None = None) -> Plan:
    """The fastest plan that fits, by simulation.

    Raises Infeasible (which resource is short, by how much), or ValueError.
    """
    asked = options = options or SolverOptions()
    if options.msp and options.kv_offload is None:  # nothing is lent from the host tier
        options = replace(options, kv_offload=False)
    resident: Plan | None = None
    hosted = _Hosted(workload, profile, replace(options, kv_offload=True))
    if options.kv_offload is None and options.solver != "paper":
        rival = hosted.seconds if options.solver == "heuristic" else None
        with suppress(Infeasible):
            resident = _solve(workload, profile, replace(options, kv_offload=False), rival)
        if resident is not None and not hosted.worth_a_try(resident.makespan_seconds):
            return resident
        options = hosted.options
    try:
        other = hosted.plan() if options == hosted.options else _solve(workload, profile, options)
        if resident is None or other.makespan_seconds < resident.makespan_seconds:
            return other
        return resident
    except Infeasible as error:
        if resident is not None:
            return resident
        if asked.msp:  # the longest would be that of plans without it
            raise
        from sppo.planner.longest import longest_words

        raise Infeasible(f"{error}; {longest_words(workload, profile, asked)}") from None


Rival = Callable[[float], float]
"""Given a step's seconds, those of another kind of plan that is faster, if there may be one."""


class _Hosted:
    """The plan with K and V in the host tier, made when it is first asked for."""

    def __init__(self, workload: Workload, profile: Hardware, options: SolverOptions) -> None:
        self.workload = workload
        self.profile = profile
        self.options = options
        self._found: Plan | Infeasible | None = None

    def plan(self) -> Plan:
        """Raises Infeasible."""
        if self._found is None:
            try:
                self._found = _solve(self.workload, self.profile, self.options)
            except Infeasible as error:
                self._found = error
        if isinstance(self._found, Infeasible):
            raise self._found
        return self._found

    def worth_a_try(self, seconds: float) -> bool:
        """Whether memory costs a plan so much that K and V may be better off in the host tier."""
        if self.workload.device_memory_bytes is None:
            return False
        return seconds > CRAMPED * self._least_seconds

    @cached_property
    def _least_seconds(self) -> float:
        layouts = every_layout(self.workload, self.profile, replace(self.options, kv_offload=None))
        return min(layout.least_seconds for layout in layouts)

    def seconds(self, seconds: float) -> float:
        """Of its step, or infinity where a plan of so many seconds makes it no rival."""
        if self.worth_a_try(seconds):
            with suppress(Infeasible):
                return self.plan().makespan_seconds
        return float("inf")


def _solve(
    workload: Workload, profile: Hardware, options: SolverOptions, rival: Rival | None = None
) -> Plan:
    layouts = sorted(every_layout(workload, profile, options), key=lambda one: one.least_seconds)
    if options.solver == "paper":
        from sppo.planner.paper_heuristic import solve_paper

        return solve_paper(workload, layouts)
    if options.solver == "exact":
        from sppo.planner.activations.integer_program import cheapest_fates

        best = _explained(_search(layouts, _Bounded(cheapest_fates), len(layouts)))
        rough = _explained(_search(layouts, _policy(options.policy), SIMULATED))
        if rough.makespan_seconds < best.makespan_seconds:
            best = rough  # equal added time, placed where the pipeline waits anyway
        gap = rough.makespan_seconds / best.makespan_seconds - 1
        note = f"exact over {len(layouts)} layouts; the heuristic's plan takes {gap:+.2%}"
        return replace(best, reasons=(*best.reasons, note))
    choose = _policy(options.policy)
    found = _search(layouts, choose, SIMULATED, rival)
    lent = with_msp(found.plan, layouts, choose, options.msp)
    if lent.layout is None:
        plan = _explained(found)
    else:
        before = found.plan, found.layout
        plan = _explained(replace(found, plan=lent.plan, layout=lent.layout), before)
    return replace(plan, reasons=(*plan.reasons, *lent.notes))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The fastest plan of a search, without its reasons yet."""

    plan: Plan
    layout: TimedLayout
    search: Search


def _explained(found: _Found, before: tuple[Plan, TimedLayout] | None = None) -> Plan:
    """The plan with its reasons, and what does not fit."""
    from sppo.planner.report.reasons import explain

    rejected = [f"{layout}: short of {short}" for layout, short in found.search.short.items()]
    if len(rejected) > REJECTED:
        rejected[REJECTED:] = [f"and {len(rejected) - REJECTED} more layouts"]
    reasons = explain(found.plan, found.layout, found.search, before)
    return replace(found.plan, reasons=reasons, rejected=tuple(rejected))


def _policy(name: str) -> Choose:
    def choose(problem: StageProblem) -> StageDecisions:
        return policies.choose(problem, name)

    return _Bounded(choose) if name == "auto" else choose


@dataclass(frozen=True)
class _Bounded:
    """The same, but quick to say that the host tier is too small. Free to take any decisions."""

    choose: Choose

    def __call__(self, problem: StageProblem) -> StageDecisions:
        require_host_room(problem)
        return self.choose(problem)


def _search(
    layouts: list[TimedLayout], choose: Choose, simulated: int, rival: Rival | None = None
) -> _Found:
    """The least simulated makespan of the layouts, in their order; `simulated` at most.

    Stops where a layout's compute alone takes longer than the best plan, and passes over families
    whose finest cut does not fit, and what cannot beat the rival. Raises Infeasible.
    """
    best: tuple[Plan, TimedLayout] | None = None
    search = Search(layouts=layouts)
    limit = float("inf")
    hopeless: dict[tuple[int, ...], bool] = {}
    for layout in layouts:
        if hopeless.get(layout.family):
            continue
        least = float("inf") if best is None else best[0].makespan_seconds
        if best is not None and (simulated == 0 or layout.least_seconds >= least):
            break
        if _without_ends(layout) >= limit:
            continue
        try:
            plan = plan_of(layout, choose)
        except Short as short:
            search.short[layout] = short
            if layout.family not in hopeless:
                hopeless[layout.family] = _is_hopeless(layout, search, choose)
            continue
        hopeless[layout.family] = False
        if best is None and rival is not None:
            limit = rival(plan.makespan_seconds)
        simulated -= 1
        search.seconds[layout] = plan.makespan_seconds
        if plan.makespan_seconds < least:
            best = plan, layout
    if best is None:
        nearest = min(search.finest_short, key=lambda one: search.short[one].bytes)
        raise Infeasible(
            f"{nearest.workload.name}: no plan fits; the nearest, {nearest}, is short by "
            f"{search.short[nearest]}. Raise the device or host memory, use more ranks, or "
            f"shorten the sequence"
        )
    return _Found(plan=best[0], layout=best[1], search=search)


def _without_ends(layout: TimedLayout) -> float:
    """Seconds that no plan of this layout is below by much, were its stages to lend."""
    lends = layout.pipeline_parallel > 1 and layout.kv_sets == 1 and not layout.kv_block_tokens
    return layout.work_and_ends_seconds[0] if lends else layout.least_seconds


def _is_hopeless(layout: TimedLayout, search: Search, choose: Choose) -> bool:
    """Whether the finest cut of this layout's family, which needs least memory, does not fit."""
    family = [one for one in search.layouts if one.family == layout.family]
    finest = max(family, key=lambda one: one.subsequences)
    try:
        for stage in {0, finest.pipeline_parallel - 1}:
            problem = stage_problem(finest, stage)
            problem.require_room()
            if not _surely_fits(problem, choose):
                problem.require_fit(problem.memory(choose(problem)))
    except Short as short:
        search.short[finest] = short
        return True
    return False


def _surely_fits(problem: StageProblem, choose: Choose) -> bool:
    """A quick look, before the best decisions are sought only to know whether there are any."""
    if not isinstance(choose, _Bounded):
        return False
    try:
        require_some_fates(problem)
    except Short:
        return False
    return True
