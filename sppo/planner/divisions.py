"""How the ranks of a stage divide it: the faster of weights alone (TP) and with all-to-alls.

The two are searched apart. A search simulates few layouts, and those of all divisions together
would crowd out the fastest ones without all-to-alls.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from sppo.config.errors import Infeasible
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.plan.plan import Plan
from sppo.planner.layouts.candidates import ulysses_degrees_to_try
from sppo.planner.layouts.degrees import every_degree
from sppo.planner.options import SolverOptions

Search = Callable[[Workload, Hardware, SolverOptions], Plan]
"""The fastest plan of these options. Raises Infeasible or ValueError."""


def fastest_division(
    workload: Workload, profile: Hardware, options: SolverOptions, search: Search
) -> Plan:
    """The plan of the faster division that the options leave. Raises as `search` does."""
    if options.stage_sharding != "auto" or options.ulysses_parallel is not None:
        return search(workload, profile, options)
    divided = replace(options, stage_sharding="tensor")
    shared = any(degrees.shards > 1 for degrees in every_degree(workload, divided))
    if options.solver == "paper" or not shared:
        return search(workload, profile, divided)
    exchanged = replace(options, stage_sharding="ulysses")
    exchanging = partial(_fastest_degree, search)
    refusals = Infeasible, ValueError  # MSP may be asked for where only one stage is left
    try:
        plan = search(workload, profile, divided)
    except Infeasible as short:
        with suppress(*refusals):
            return exchanging(workload, profile, exchanged)
        raise short from None
    with suppress(*refusals):
        return _faster(plan, exchanging(workload, profile, exchanged))
    return plan


def _fastest_degree(
    search: Search, workload: Workload, profile: Hardware, options: SolverOptions
) -> Plan:
    """The fastest plan with all-to-alls: that of a search, then with the next Ulysses degrees.

    Only plans with MSP: the search tries MSP for few layouts. Raises as `search` does.
    """
    best = search(workload, profile, options)
    if not best.msp_splits:
        return best
    family = replace(
        options,
        sequence_parallel=best.sequence_parallel,
        pipeline_parallel=best.pipeline_parallel,
        data_parallel=best.data_parallel,
        virtual_stages=best.virtual_stages,
    )
    degrees = ulysses_degrees_to_try(workload, options, best.sequence_parallel)
    place = degrees.index(best.ulysses_parallel)
    for some in (degrees[place:], reversed(degrees[:place])):
        for degree in some:
            try:
                plan = search(workload, profile, replace(family, ulysses_parallel=degree))
            except Infeasible:
                break
            if plan.makespan_seconds >= best.makespan_seconds and degree != degrees[place]:
                break
            best = min(best, plan, key=lambda plan: plan.makespan_seconds)
    return best


def _faster(divided: Plan, exchanged: Plan) -> Plan:
    """The faster plan, with a sentence on the other one."""
    gain = divided.makespan_seconds / exchanged.makespan_seconds - 1
    if gain > 0:
        text = (
            f"all-to-alls inside a stage: without them the fastest plan, {_words(divided)}, is "
            f"simulated {gain:.2%} slower"
        )
        return replace(exchanged, reasons=_second(text, exchanged))
    slower = exchanged.makespan_seconds / divided.makespan_seconds - 1
    text = (
        f"no all-to-alls inside a stage: the fastest plan with them, {_words(exchanged)}, is "
        f"simulated {slower:.2%} slower"
    )
    return replace(divided, reasons=_second(text, divided))


def _words(plan: Plan) -> str:
    return f"{plan.degrees_words}, N {plan.subsequences}"


def _second(text: str, plan: Plan) -> tuple[str, ...]:
    """The plan's reasons, with `text` behind the first one, on its degrees."""
    return (*plan.reasons[:1], text, *plan.reasons[1:])
