"""SPPO's best plans of distinct layouts, to be measured once (`run --tune`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from baselines import registry
from baselines.protocol import Planner
from benchmarks.records.plan_record import plan_data, plan_words
from benchmarks.rows.assign import with_settings
from benchmarks.rows.row import Configuration, Row
from sppo.config.errors import Infeasible, NotSupported
from sppo.config.sizes import divisors
from sppo.config.workload import Workload
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions

PLANS = 4
"""Plans that are measured, by their predicted steps."""


def can_be_measured(system: str) -> bool:
    """Whether the system's plans have layouts to choose from: SPPO's solver takes fixed degrees."""
    adapter = registry.load(system)
    return isinstance(adapter, Planner) and adapter.settings_type is SolverOptions


def best_plans(system: str, workload: Workload) -> list[Configuration]:
    """The PLANS best plans of distinct layouts, the best first, each a row of its own.

    Without a plan one row with the planner's reason. Raises ValueError.
    """
    adapter = registry.load_planner(system)
    plans: dict[Any, tuple[float, SolverOptions, Plan]] = {}
    refusal: Exception | None = None
    for options in _layouts(workload, adapter):
        try:
            plan = adapter.plan(workload, options)
        except (Infeasible, NotSupported, ValueError) as error:
            refusal = refusal or error
            continue
        seconds = plan.makespan_seconds + plan.reduction_seconds
        plans.setdefault(_layout_of(plan), (seconds, options, plan))
    best = sorted(plans.values(), key=lambda known: known[0])[:PLANS]
    if not best:
        row = Row(label=f"{system} 01", system=system, choosing="planned")
        return [Configuration(row=row, status="infeasible", reason=str(refusal))]
    return [
        _configuration(system, number, options, plan)
        for number, (_, options, plan) in enumerate(best, start=1)
    ]


def _layouts(workload: Workload, adapter: Planner) -> Iterator[SolverOptions]:
    """The solver's choice; its choice for all degrees; its best degrees with other chunks and N."""
    yield SolverOptions()
    ranks = workload.cluster.ranks
    for stages in divisors(ranks):
        for shards in divisors(ranks // stages):
            yield SolverOptions(pipeline_parallel=stages, sequence_parallel=shards)
    try:
        plan = adapter.plan(workload, SolverOptions())
    except (Infeasible, NotSupported):
        return
    fixed = SolverOptions(
        pipeline_parallel=plan.pipeline_parallel, sequence_parallel=plan.sequence_parallel
    )
    for count in (plan.subsequences // 2, 2 * plan.subsequences):
        if count:
            yield replace(fixed, subsequences=count)
    for chunks in (plan.virtual_stages // 2, 2 * plan.virtual_stages):
        if chunks:
            yield replace(fixed, virtual_stages=chunks)


def _layout_of(plan: Plan) -> tuple[Any, ...]:
    return (*plan.family, plan.lengths_tokens, plan.head_alone, plan.msp_splits)


def _configuration(system: str, number: int, options: SolverOptions, plan: Plan) -> Configuration:
    row = Row(label=f"{system} {number:02d}", system=system, choosing="planned")
    data = plan_data(plan, solver=options.solver)
    changes = {"plan": data, "settings_text": plan_words(data)}
    return with_settings(row, registry.load(system), options, grid="", **changes)
