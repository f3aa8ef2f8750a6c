"""How each row of the comparison gets its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.job import Status, throw_away_tokens
from benchmarks.records.plan_record import plan_data, plan_words
from benchmarks.records.store import RecordError
from benchmarks.rows import tuning
from benchmarks.rows.row import Configuration, Row
from sppo.config.errors import Infeasible, NotBuilt
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from baselines.protocol import Adapter
    from sppo.plan.plan import Plan, StepPlans
    from sppo.planner.options import SolverOptions


def assign(row: Row, workload: Workload) -> Configuration:
    """Choose the row's settings. A refusal of planner or library is an Assignment with its status.

    Raises RecordError where a committed tuning file is damaged.
    """
    from baselines import registry
    from baselines.protocol import Unavailable

    try:
        adapter = registry.load(row.system)
    except ImportError as error:
        return _refused(row, "unavailable", error)
    try:
        settings, grid, plan = _choose(row, workload, adapter)
        adapter.check(workload, settings)
    except (Unavailable, NotBuilt) as error:
        return _refused(row, "unavailable", error)
    except Infeasible as error:
        return _refused(row, "infeasible", error)
    assignment = with_settings(row, adapter, settings, grid=grid, plan=plan)
    if plan is not None:
        return replace(assignment, settings_text=plan_words(plan))
    if row.choosing == "tuned" and not tuning.choose(row.system, workload).settings:
        words = f"{assignment.settings_text} (untuned)"
        return replace(assignment, settings_text=words, tuned=False)
    return assignment


def _refused(row: Row, status: Status, error: Exception) -> Configuration:
    return Configuration(row=row, status=status, reason=str(error))


def with_settings(
    row: Row, adapter: Adapter, settings: Any, *, grid: str, plan: dict[str, Any] | None = None
) -> Configuration:
    """The row with exactly these settings (an instance of the adapter's settings type)."""
    import msgspec

    return Configuration(
        row=row,
        settings=msgspec.to_builtins(settings),
        settings_text=adapter.describe(settings),
        grid="; ".join(text for text in (grid, adapter.remark) if text),
        plan=plan,
        environment=dict(adapter.environment),
        versions=adapter.versions(),
    )


def recheck(assignment: Configuration, workload: Workload) -> Configuration:
    """The same settings on another workload, or refused there in the library's words."""
    import msgspec

    from baselines import registry
    from baselines.protocol import Unavailable

    if not assignment.settings:
        return assignment  # refused before it had any
    adapter = registry.load(assignment.row.system)
    settings: Any = msgspec.convert(assignment.settings, adapter.settings_type)
    try:
        adapter.check(workload, settings)
    except Unavailable as error:
        return replace(assignment, status="unavailable", reason=str(error))
    return replace(assignment, status=None, reason="")


def _choose(
    row: Row, workload: Workload, adapter: Adapter
) -> tuple[Any, str, dict[str, Any] | None]:
    """Settings, where they come from, and the plan of a system that plans.

    Raises ValueError where the adapter cannot choose so.
    """
    import msgspec

    from baselines.protocol import Follower, Planner

    settings: Any
    if row.choosing == "tuned":
        choice = tuning.choose(row.system, workload)
        if choice.settings is None:
            return adapter.grid(workload)[-1], choice.source, None
        try:
            settings = msgspec.convert(choice.settings, adapter.settings_type)
        except msgspec.ValidationError as error:
            reason = f"settings of {row.system}, {choice.source}: {error}; tune again with --tune"
            raise RecordError(reason) from None
        return settings, choice.source, None
    if row.choosing == "same layout":
        if not isinstance(adapter, Follower):
            raise ValueError(f"{row.label}: {row.system} cannot follow another system's layout")
        pipeline_parallel, tensor_parallel, whose = sppo_layout(workload)
        settings = adapter.same_layout(workload, pipeline_parallel, tensor_parallel)
        return settings, f"{whose} PP{pipeline_parallel} TP{tensor_parallel}, full recompute", None
    settings = adapter.grid(workload)[0]
    if row.choosing == "planned":
        from sppo.config.hardware import load_hardware

        if not isinstance(adapter, Planner):
            raise ValueError(f"{row.label}: {row.system} makes no plans")
        limit = workload.device_memory_bytes
        memory = "no limit" if limit is None else format_bytes(limit)
        recorded = plan_data(
            adapter.plan(workload, settings),
            solver=adapter.solver(settings),
            profile_kind=load_hardware(workload.cluster.hardware).kind,
        )
        return settings, f"planned by the solver, device memory: {memory}", recorded
    return settings, "nothing to choose", None


def step_plans(adapter: Adapter, workload: Workload, settings: Any) -> StepPlans | None:
    """The plans that a launcher gives to all ranks; None where the system plans nothing.

    Raises Infeasible, NotBuilt or ValueError.
    """
    from baselines.protocol import Planner

    if not isinstance(adapter, Planner):
        return None
    return adapter.step_plans(workload, settings, throw_away_tokens(workload))


def sppo_plan(workload: Workload, options: SolverOptions | None = None) -> Plan:
    """SPPO's plan of this workload, as its adapter makes it, without importing torch.

    Raises Infeasible, NotBuilt (no profile) or ValueError.
    """
    from sppo.config.hardware import load_hardware
    from sppo.planner.solve import solve

    return solve(workload, load_hardware(workload.cluster.hardware), options)


def sppo_layout(workload: Workload) -> tuple[int, int, str]:
    """PP and TP of SPPO on this workload, and in whose words.

    Where SPPO has no plan, a pipeline over all ranks stands in for it.
    """
    try:
        plan = sppo_plan(workload)
    except (ImportError, Infeasible, NotBuilt):
        return workload.cluster.ranks, 1, "no SPPO plan to follow:"
    return plan.pipeline_parallel, plan.sequence_parallel, "SPPO's"


def grid_assignments(system: str, workload: Workload) -> list[Configuration]:
    """Every point of a library's grid as a row of its own; refused points keep their reason."""
    from baselines import registry
    from baselines.protocol import Unavailable

    adapter = registry.load(system)
    points = []
    for number, settings in enumerate(adapter.grid(workload), start=1):
        row = Row(label=f"{system} {number:02d}", system=system, choosing="tuned")
        point = with_settings(row, adapter, settings, grid="")
        try:
            adapter.check(workload, settings)
        except Unavailable as error:
            point = replace(point, status="unavailable", reason=str(error))
        points.append(point)
    return points
