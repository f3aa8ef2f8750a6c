"""SPPO: a planner without torch and an engine without the planner, which meet in the plan.

    from sppo import MODELS, Cluster, Workload, load_hardware, plan_card, simulate_plan, solve

Every public name is imported from the file that defines it, when it is first asked for: `import
sppo` costs nothing, and only the last three names load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppo.comm.mesh import join_groups as join_groups
    from sppo.config.errors import Infeasible as Infeasible
    from sppo.config.hardware import Hardware as Hardware
    from sppo.config.hardware import load_hardware as load_hardware
    from sppo.config.models import MODELS as MODELS
    from sppo.config.models import Model as Model
    from sppo.config.workload import Cluster as Cluster
    from sppo.config.workload import Workload as Workload
    from sppo.cost_model.plan_costs import simulate_plan as simulate_plan
    from sppo.engine.in_threads import run_in_threads as run_in_threads
    from sppo.engine.trainer import Trainer as Trainer
    from sppo.plan.layout import Layout as Layout
    from sppo.plan.plan import Plan as Plan
    from sppo.plan.plan import StepPlans as StepPlans
    from sppo.planner.options import SolverOptions as SolverOptions
    from sppo.planner.report.card import card as plan_card  # noqa: F401
    from sppo.planner.solve import solve as solve
    from sppo.schedule.build import build_schedule as build_schedule
    from sppo.schedule.check import check_schedule as check_schedule
    from sppo.schedule.cost_table import unit_costs as unit_costs
    from sppo.schedule.dependencies import Schedule as Schedule
    from sppo.schedule.instructions import Instruction as Instruction
    from sppo.schedule.instructions import Op as Op
    from sppo.schedule.simulate import simulate as simulate
    from sppo.schedule.simulation import Simulation as Simulation

_DEFINED_IN = {
    # what is trained, on what
    "MODELS": "sppo.config.models:MODELS",
    "Cluster": "sppo.config.workload:Cluster",
    "Hardware": "sppo.config.hardware:Hardware",
    "Model": "sppo.config.models:Model",
    "Workload": "sppo.config.workload:Workload",
    "load_hardware": "sppo.config.hardware:load_hardware",
    # planning
    "Infeasible": "sppo.config.errors:Infeasible",
    "Layout": "sppo.plan.layout:Layout",
    "Plan": "sppo.plan.plan:Plan",
    "StepPlans": "sppo.plan.plan:StepPlans",
    "SolverOptions": "sppo.planner.options:SolverOptions",
    "plan_card": "sppo.planner.report.card:card",
    "solve": "sppo.planner.solve:solve",
    # the schedule as data, and what it would take
    "Instruction": "sppo.schedule.instructions:Instruction",
    "Op": "sppo.schedule.instructions:Op",
    "Schedule": "sppo.schedule.dependencies:Schedule",
    "Simulation": "sppo.schedule.simulation:Simulation",
    "build_schedule": "sppo.schedule.build:build_schedule",
    "check_schedule": "sppo.schedule.check:check_schedule",
    "simulate": "sppo.schedule.simulate:simulate",
    "simulate_plan": "sppo.cost_model.plan_costs:simulate_plan",
    "unit_costs": "sppo.schedule.cost_table:unit_costs",
    # training: these load torch
    "Trainer": "sppo.engine.trainer:Trainer",
    "join_groups": "sppo.comm.mesh:join_groups",
    "run_in_threads": "sppo.engine.in_threads:run_in_threads",
}
"""Public name -> "module:definition"; the imports above say the same to editors and mypy."""

__all__ = sorted(_DEFINED_IN)


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562) and keep it."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, definition = _DEFINED_IN[name].split(":")
    value = globals()[name] = getattr(import_module(module), definition)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
