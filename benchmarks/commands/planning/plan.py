"""`sppo-bench plan`: the plan's card, or JSON."""

from __future__ import annotations

from benchmarks.commands.arguments import find_selected, planned, solver_options, tell_infeasible
from benchmarks.commands.output import show_json
from benchmarks.commands.planning.flags import Plan
from benchmarks.records.plan_record import plan_data
from sppo.config.errors import Infeasible


def plan(verb: Plan) -> int:
    """The plan's card or JSON."""
    from sppo.config.hardware import load_profile
    from sppo.planner.report.card import card

    try:
        found = planned(verb)
    except Infeasible as error:
        return tell_infeasible(verb, error)
    workload = find_selected(verb)
    profile = load_profile(workload.cluster.hardware)
    if verb.json:
        solver = solver_options(verb).solver
        show_json(plan_data(found, solver=solver, profile_kind=profile.kind))
    else:
        print(card(found, profile, workload))
    return 0
