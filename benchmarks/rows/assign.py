"""The settings of each row: planned, tuned, or in the layout of SPPO's plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Follower, Planner, Unavailable, measured_grid
from benchmarks.job import throw_away_tokens
from benchmarks.records.plan_record import plan_data, plan_words
from benchmarks.records.store import RecordError
from benchmarks.rows import known_grids
from benchmarks.rows.row import Configuration, Row
from sppo.config.errors import Infeasible, NotSupported
from sppo.config.hardware import load_hardware
from sppo.config.sizes import limit_words
from sppo.config.workload import Workload
from sppo.plan.plan import Plan, StepPlans
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

Choose = Callable[[Row, Workload, Adapter], tuple[Any, str, dict[str, Any]]]
"""(row, workload, adapter) -> settings, their source in words, fields of the Configuration."""


def assign(row: Row, workload: Workload) -> Configuration:
    """The row with its settings, or with the status and reason of a refusal.

    Planner and library may refuse. Raises RecordError on a damaged tuning file, ValueError where
    the adapter does not choose settings in the row's way.
    """
    return _assigned(row, workload, _choose)


def _assigned(row: Row, workload: Workload, choose: Choose) -> Configuration:
    try:
        adapter = registry.load(row.system)
    except ImportError as error:
        return Configuration(row=row, status="unavailable", reason=str(error))
    try:
        settings, grid, changes = choose(row, workload, adapter)
        adapter.check(workload, settings)
    except Infeasible as error:
        return Configuration(row=row, status="infeasible", reason=str(error))
    except (Unavailable, NotSupported) as error:
        return Configuration(row=row, status="unavailable", reason=str(error))
    return with_settings(row, adapter, settings, grid=grid, **changes)


def with_settings(
    row: Row, adapter: Adapter, settings: Any, *, grid: str, **changes: Any
) -> Configuration:
    """The row with exactly these settings (an instance of the adapter's settings type).

    changes: further fields of the Configuration, such as its plan; `versions`, where they are known
    already.
    """
    if "versions" not in changes:
        changes["versions"] = adapter.versions()
    configuration = Configuration(
        row=row,
        settings=msgspec.to_builtins(settings),
        settings_text=adapter.describe(settings),
        grid="; ".join(text for text in (grid, adapter.remark) if text),
        environment=dict(adapter.environment),
    )
    return replace(configuration, **changes)


def recheck(configuration: Configuration, workload: Workload) -> Configuration:
    """The same settings on another workload, or the library's refusal there."""
    if configuration.status is not None and not configuration.settings:
        return configuration  # refused before it had any
    adapter = registry.load(configuration.row.system)
    settings: Any = msgspec.convert(configuration.settings, adapter.settings_type)
    try:
        adapter.check(workload, settings)
    except Unavailable as error:
        return replace(configuration, status="unavailable", reason=str(error))
    return replace(configuration, status=None, reason="")


def _choose(row: Row, workload: Workload, adapter: Adapter) -> tuple[Any, str, dict[str, Any]]:
    """The settings in the row's way.

    Raises ValueError where the adapter does not choose settings in this way.
    """
    if row.choosing == "tuned":
        return _choose_tuned(row, workload, adapter)
    if row.choosing == "same layout":
        if not isinstance(adapter, Follower):
            raise ValueError(f"{row.label}: {row.system} cannot follow another system's layout")
        degrees, source = sppo_layout(workload)
        names = zip(("PP", "TP", "CP"), degrees, strict=True)
        words = ", ".join(
            f"{name} {degree}" for name, degree in names if name != "CP" or degree > 1
        )
        settings = adapter.same_layout(workload, *degrees)
        return settings, f"{source}: {words}; full recompute", {}
    if row.choosing == "planned":
        return _choose_planned(row, workload, adapter)
    return adapter.grid(workload)[0], "nothing to choose", {}


def _choose_tuned(
    row: Row, workload: Workload, adapter: Adapter
) -> tuple[Any, str, dict[str, Any]]:
    """The winner of a known grid, else an untuned point of the adapter's grid."""
    choice = known_grids.choose(row.system, workload)
    if choice.settings is None:
        settings = _untuned(workload, adapter, leanest=choice.none_fits)
        words = f"{adapter.describe(settings)} {UNTUNED}"
        return settings, choice.source, {"settings_text": words, "tuned": False}
    try:
        settings = msgspec.convert(choice.settings, adapter.settings_type)
        return settings, choice.source, {"emulated": choice.emulated}
    except msgspec.ValidationError as error:
        reason = f"settings of {row.system}, {choice.source}: {error}; tune again with --tune"
        raise RecordError(reason) from None


UNTUNED = "(untuned)"
"""Behind the settings of a row without a measured point."""


def _untuned(workload: Workload, adapter: Adapter, *, leanest: bool) -> Any:
    """The first point of the grid that the library takes; `leanest`: the last.

    A grid begins with the least work. `benchmarks.rows.fallback` takes the place of a first point
    that does not fit. Where the library refuses all points, its check of this one says why.
    """
    points = adapter.grid(workload)
    ordered = points[::-1] if leanest else points
    return next((each for each in ordered if _is_taken(workload, adapter, each)), ordered[0])


def _is_taken(workload: Workload, adapter: Adapter, settings: Any) -> bool:
    try:
        adapter.check(workload, settings)
    except (Unavailable, NotSupported):
        return False
    return True


def _choose_planned(
    row: Row, workload: Workload, adapter: Adapter
) -> tuple[Any, str, dict[str, Any]]:
    """The fastest plan measured on this machine, else the solver's.

    Raises Infeasible, NotSupported or ValueError.
    """
    choice = known_grids.measured_plan(row.system, workload)
    if choice.settings is not None:
        try:
            settings: Any = msgspec.convert(choice.settings, adapter.settings_type)
            return settings, choice.source, _plan_of(row, workload, adapter, settings)
        except (Infeasible, ValueError):
            pass  # another version's: the solver plans anew
    return _choose_solved(row, workload, adapter)


def _choose_solved(
    row: Row, workload: Workload, adapter: Adapter
) -> tuple[Any, str, dict[str, Any]]:
    """The solver's own plan. Raises Infeasible, NotSupported or ValueError."""
    settings = adapter.grid(workload)[0]
    source = f"planned by the solver, device memory: {limit_words(workload.device_memory_bytes)}"
    return settings, source, _plan_of(row, workload, adapter, settings)


def _plan_of(row: Row, workload: Workload, adapter: Adapter, settings: Any) -> dict[str, Any]:
    """The plan of these settings, and its words. Raises Infeasible, NotSupported or ValueError."""
    if not isinstance(adapter, Planner):
        raise ValueError(f"{row.label}: {row.system} makes no plans")
    plan = plan_data(
        adapter.plan(workload, settings),
        solver=adapter.solver(settings),
        profile_kind=load_hardware(workload.cluster.hardware).kind,
    )
    return {"plan": plan, "settings_text": plan_words(plan)}


def planned_by_the_solver(row: Row, workload: Workload) -> Configuration:
    """The row with the solver's own plan, whatever was measured, or with its refusal."""
    return _assigned(row, workload, _choose_solved)


def step_plans(adapter: Adapter, workload: Workload, settings: Any) -> StepPlans | None:
    """The plans that a launcher gives to all ranks; None for a system that does not plan.

    Raises Infeasible, NotSupported or ValueError.
    """
    if not isinstance(adapter, Planner):
        return None
    return adapter.step_plans(workload, settings, throw_away_tokens(workload))


def sppo_plan(workload: Workload, options: SolverOptions | None = None) -> Plan:
    """SPPO's plan of this workload, as its adapter makes it, without an import of torch.

    Raises Infeasible, NotSupported (no profile) or ValueError.
    """
    return solve(workload, load_hardware(workload.cluster.hardware), options)


def sppo_layout(workload: Workload) -> tuple[tuple[int, int, int], str]:
    """PP, TP and CP for a peer in SPPO's layout, and their source in words.

    TP are all ranks that divide heads. Without a plan the layout is a pipeline over all ranks.
    """
    try:
        plan = sppo_plan(workload)
    except (ImportError, Infeasible, NotSupported):
        return (workload.cluster.ranks, 1, 1), "SPPO has no plan, so a pipeline over all ranks"
    degrees = plan.pipeline_parallel, plan.head_parallel, plan.context_parallel
    return degrees, "degrees of SPPO's plan"


def grid_assignments(system: str, workload: Workload) -> list[Configuration]:
    """Every point of a measured grid as a row of its own; a refused point keeps its reason."""
    adapter = registry.load(system)
    versions = adapter.versions()  # read from the packages' files: once for all points
    points = []
    for number, settings in enumerate(measured_grid(adapter, workload), start=1):
        row = Row(label=f"{system} {number:02d}", system=system, choosing="tuned")
        point = with_settings(row, adapter, settings, grid="", versions=versions)
        points.append(recheck(point, workload))
    return points
