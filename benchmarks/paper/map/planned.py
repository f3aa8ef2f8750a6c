"""SPPO's plan at one place of the map."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.emulation.time.systems import without_messages
from benchmarks.environment import CHECKOUT, git_state
from benchmarks.paper.map.data import MapPlan
from benchmarks.paper.map.places import Place
from sppo.config.errors import Infeasible
from sppo.cost_model.plan_costs import simulate_plan
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.report.wording import counted
from sppo.planner.solve import solve


def plan_at(place: Place) -> MapPlan:
    """The solver's own plan. Where none fits, or no degrees fill the ranks, the entry says so."""
    begun = time.monotonic()
    values = _values_at(place)
    return MapPlan(
        place=place,
        planning_seconds=time.monotonic() - begun,
        commit=git_state(CHECKOUT)[0] or "unknown",
        **values,
    )


def _values_at(place: Place) -> dict[str, Any]:
    profile = place.profile
    try:
        plan = solve(place.workload, profile, SolverOptions())
    except Infeasible as error:
        return {"status": "infeasible", "reason": str(error)}
    except ValueError as error:
        return {"status": "refused", "reason": str(error)}
    memories = [stage.memory for stage in plan.stages]
    return {
        "status": "ok",
        "settings_text": words(plan),
        "step_seconds": plan.makespan_seconds,
        "step_seconds_if_hidden": simulate_plan(plan, without_messages(profile)).makespan / 1e9,
        "device_peak_bytes": max(memory.device_peak for memory in memories),
        "host_peak_bytes": max(memory.host + memory.kv_host for memory in memories),
    }


def words(plan: Plan) -> str:
    """ "SP 8 x PP 4, N 17, 8 chunks a stage, MSP"."""
    chunks = counted(plan.virtual_stages, "chunk")
    msp = ", MSP" if plan.msp_splits else ""
    hosted = ", K and V in the host tier" if plan.kv_block_tokens else ""
    return f"{plan.sharding_words}, N {plan.subsequences}, {chunks} a stage{msp}{hosted}"
