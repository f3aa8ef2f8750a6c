"""(workload, ranks, profile) -> Plan: SP, PP, N, the cut and every tensor's decision, with reasons.

Three solvers share one cost model. "heuristic" (default) tries layouts in the order of their lower
bounds (`search/bounds.py`, `search/least_added.py`), with K and V on the device and on the host.
Each stage gets the cheapest decisions that fit (`activations/policies.py`), and the schedule that
would run is simulated; the least makespan wins. "exact" decides by an integer program
(`activations/integer_program.py`). "paper" is the paper's own heuristic (`paper_heuristic.py`).
Memory is the whole model of `memory_model/model_state.py`, KV and dKV accumulators included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from sppo.config.errors import Infeasible
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.memory_model.decisions import StageDecisions
from sppo.plan.plan import Plan
from sppo.planner.activations import policies
from sppo.planner.activations.feasibility import require_host_room, require_some_decisions
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.evaluate import Choose, decided_stages, unpredicted_plan
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.msp import with_msp
from sppo.planner.options import SolverOptions
from sppo.planner.search.best_first import Best, Decide, search
from sppo.planner.search.log import Search
from sppo.planner.search.quick_step import quick_prediction

SIMULATED = 96
"""Layouts whose decisions are made, best bound first, before the heuristic stops looking."""

NEAR = 1.01
"""Steps without MSP up to so many times the best one are tried with MSP."""

REJECTED = 12
"""Layouts that did not fit and are named in a plan."""


def solve(workload: Workload, profile: Hardware, options: SolverOptions | None = None) -> Plan:
    """The plan of the least simulated makespan that fits the device and host memory.

    Raises Infeasible (which resource is short, by how much, and the longest sequence that fits), or
    ValueError for options that allow no layout.
    """
    options = options or SolverOptions()
    try:
        return _solve(workload, profile, options)
    except Infeasible as error:
        if options.msp:  # the longest sequence is that of plans without MSP
            raise
        from sppo.planner.longest import longest_words

        raise Infeasible(f"{error}; {longest_words(workload, profile, options)}") from None


def _solve(workload: Workload, profile: Hardware, options: SolverOptions) -> Plan:
    layouts = _layouts(workload, profile, options)
    if options.solver == "paper":
        from sppo.planner.paper_heuristic import solve_paper

        return solve_paper(workload, layouts)
    if options.solver == "exact":
        return _solve_exactly(layouts, options)
    decide = _decide(options)
    best = search(layouts, decide, SIMULATED)
    plan = _plan(best)
    msp = with_msp(plan, layouts, decide.choose, options.msp, best.search.near(NEAR))
    if msp.layout is None:
        plan = _explained(plan, best.layout, best.search)
    else:
        plan = _explained(msp.plan, msp.layout, best.search, before=(plan, best.layout))
    return replace(plan, reasons=(*plan.reasons, *msp.notes))


def _layouts(workload: Workload, profile: Hardware, options: SolverOptions) -> list[TimedLayout]:
    """All layouts, with K and V on the device and, where memory is limited, on the host too."""
    layouts = list(every_layout(workload, profile, options))
    either = options.kv_offload is None and options.solver != "paper"
    either = either and (options.context_parallel or 1) == 1
    if either and workload.device_memory_bytes is not None:
        layouts += every_layout(workload, profile, replace(options, kv_offload=True))
    if not layouts and options.weights == "sharded":
        raise ValueError(
            "sharded weights need ranks with the same weights: take --ulysses-parallel, "
            "--context-parallel or --dp 2 or more, or leave --weights out"
        )
    if not layouts and (options.exchange_pieces or 1) > 1:
        raise ValueError(
            "all-to-alls in pieces need --ulysses-parallel 2 or more, and one subsequence where K "
            "and V are hosted or gathered; or leave --exchange-pieces out"
        )
    if not layouts and options.kv_offload:
        raise ValueError(
            "hosted K and V need heads for every rank of a stage: lower --sp, or leave "
            "--kv-offload out"
        )
    return layouts


def _decide(options: SolverOptions) -> Decide:
    choose: Choose = partial(policies.choose, policy=options.policy)
    if options.policy != "auto":
        return Decide(choose=choose)
    return Decide(
        choose=_Bounded(choose),
        alternatives=policies.ladder_choices,
        require=require_some_decisions,
        weighs_memory=True,
    )


def _plan(best: Best) -> Plan:
    step = best.step
    stages = decided_stages(best.layout, lambda problem: step.decisions[problem.stage])
    plan = unpredicted_plan(best.layout, stages)
    prediction = quick_prediction(best.layout, step.times, step.ns)
    return replace(plan, prediction=prediction)


def _solve_exactly(layouts: list[TimedLayout], options: SolverOptions) -> Plan:
    """The faster of the integer program's plan and the heuristic's, with the gap between them.

    The program minimises added time; the heuristic may place it where the pipeline waits anyway.
    """
    from sppo.planner.activations.integer_program import cheapest_decisions

    heuristic_decide = _decide(options)
    decide = replace(heuristic_decide, choose=_Bounded(cheapest_decisions), alternatives=None)
    results = [search(layouts, decide, len(layouts)), search(layouts, heuristic_decide, SIMULATED)]
    plans = [_explained(_plan(best), best.layout, best.search) for best in results]
    best = min(plans, key=lambda plan: plan.makespan_seconds)
    gap = plans[1].makespan_seconds / best.makespan_seconds - 1
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
