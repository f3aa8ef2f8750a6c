"""The rows of the comparison, as in the paper's figure 10, and how each gets its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.job import Status
from benchmarks.records.record import RecordError
from benchmarks.rows import tuning
from sppo.config.errors import Infeasible, NotBuilt
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload
from sppo.plan.saved_tensors import RECOMPUTE_CHEAP, RECOMPUTE_LEAN

if TYPE_CHECKING:
    from sppo.planner.options import SolverOptions

Choosing = Literal["tuned", "same layout", "planned", "only one"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    label: str
    system: str
    choosing: Choosing

    @property
    def slug(self) -> str:
        """The row's name in folders and on the command line."""
        return slug(self.label)


def slug(label: str) -> str:
    """ "DeepSpeed Ulysses" -> "deepspeed-ulysses"."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


ROWS = (
    Row(label="DeepSpeed Ulysses", system="deepspeed", choosing="tuned"),
    Row(label="Megatron same layout", system="megatron", choosing="same layout"),
    Row(label="Megatron tuned", system="megatron", choosing="tuned"),
    Row(label="SPPO", system="sppo", choosing="planned"),
)

REFERENCE = Row(label="Reference", system="reference", choosing="only one")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A row with its settings. `status` is set where it ends before any launch, with a reason."""

    row: Row
    settings: dict[str, Any] = field(default_factory=dict)
    settings_text: str = ""
    tuned: bool = True
    grid: str = ""
    plan: dict[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    status: Status | None = None
    reason: str = ""


def find(names: Sequence[str]) -> tuple[Row, ...]:
    """Rows by system, slug or label, in the table's order; no names are all rows.

    Raises ValueError listing the known names.
    """
    if not names:
        return ROWS
    chosen = set()
    for name in names:
        wanted = name.strip().lower()
        matches = {row for row in ROWS if wanted in (row.system, row.slug, row.label.lower())}
        if not matches:
            known = dict.fromkeys([row.system for row in ROWS] + [row.slug for row in ROWS])
            raise ValueError(f"unknown system {name!r}; known: {', '.join(known)}")
        chosen |= matches
    return tuple(row for row in ROWS if row in chosen)


def assign(row: Row, workload: Workload) -> Assignment:
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


def plan_words(plan: Mapping[str, Any]) -> str:
    """A plan as the settings of a row: "PP2, N 8, offload 36%, recompute norms, activation".

    Both are means over parts with layers and subsequences.
    """
    every = [part for stage in plan["stages"] for part in stage["parts"]]
    parts = [part for part in every if part["layers"][0] < part["layers"][1]]
    shares = [share for part in parts for share in part["offload_share"]]
    degrees = [f"PP{plan['pipeline_parallel']}"]
    if plan["sequence_parallel"] > 1:
        degrees.append(f"SP{plan['sequence_parallel']}")
    if plan.get("data_parallel", 1) > 1:
        degrees.append(f"DP{plan['data_parallel']}")
    if plan["virtual_stages"] > 1:
        degrees.append(f"x {plan['virtual_stages']} parts")
    offload = sum(shares) / len(shares) if shares else 0.0
    words = f"{' '.join(degrees)}, N {len(plan['lengths_tokens'])}"
    words += ", MSP" if plan.get("lendings") else ""
    words += ", hosted KV" if plan.get("kv_block_tokens") else ""
    words += f", offload {offload:.0%}"
    return words + _recompute_words([row for part in parts for row in part["recompute_units"]])


def _recompute_words(rows: Sequence[Sequence[str]]) -> str:
    """What is made again, by the level that names it, and in how many of the subsequences."""
    names = {name for row in rows for name in row}
    if not names:
        return ""
    level = "everything"
    if names <= set(RECOMPUTE_CHEAP):
        level = "norms, activation"
    elif names <= set(RECOMPUTE_LEAN):
        level = "all but attention"
    share = sum(bool(row) for row in rows) / len(rows)
    return f", recompute {level}" + ("" if share == 1 else f" in {share:.0%}")


def _refused(row: Row, status: Status, error: Exception) -> Assignment:
    return Assignment(row=row, status=status, reason=str(error))


def with_settings(
    row: Row, adapter: Any, settings: Any, *, grid: str, plan: dict[str, Any] | None = None
) -> Assignment:
    """The row with exactly these settings (an instance of the adapter's settings type)."""
    import msgspec

    return Assignment(
        row=row,
        settings=msgspec.to_builtins(settings),
        settings_text=adapter.describe(settings),
        grid="; ".join(text for text in (grid, adapter.remark) if text),
        plan=plan,
        environment=dict(adapter.environment),
        versions=adapter.versions(),
    )


def recheck(assignment: Assignment, workload: Workload) -> Assignment:
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


def _choose(row: Row, workload: Workload, adapter: Any) -> tuple[Any, str, dict[str, Any] | None]:
    """Settings, where they come from, and SPPO's plan."""
    import msgspec

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
        pipeline_parallel, tensor_parallel, whose = sppo_layout(workload)
        settings = adapter.same_layout(workload, pipeline_parallel, tensor_parallel)
        return settings, f"{whose} PP{pipeline_parallel} TP{tensor_parallel}, full recompute", None
    settings = adapter.grid(workload)[0]
    if row.choosing == "planned":
        from sppo.config.hardware import load_profile

        limit = workload.device_memory_bytes
        memory = "no limit" if limit is None else format_bytes(limit)
        plan = adapter.plan(workload, settings)
        kind = load_profile(workload.cluster.hardware).kind
        told = plan_data(plan, solver=settings.solver, profile_kind=kind)
        return settings, f"planned by the solver, device memory: {memory}", told
    return settings, "nothing to choose", None


def plan_data(
    plan: Any, *, solver: str | None = None, profile_kind: str | None = None
) -> dict[str, Any]:
    """A plan for records and programs, with what it predicts by stage and by subsequence.

    Keys and units: docs/plan.md. `solver` and `profile_kind` are null where the caller gives none.
    """
    import msgspec

    from sppo.cost_model.collectives import step_collectives

    memory = [stage.memory for stage in plan.stages]
    shared = [step_collectives(plan, stage) for stage in range(plan.pipeline_parallel)]
    count = len(plan.lengths_tokens)
    return {
        **msgspec.to_builtins(plan),
        "label": "simulated",
        "solver": solver,
        "profile_kind": profile_kind,
        "offload_share": [
            sum(part.offload_share[index] for part in plan.parts) / len(plan.parts)
            for index in range(count)
        ],
        "recompute_units": [
            list(dict.fromkeys(name for part in plan.parts for name in part.recompute_units[index]))
            for index in range(count)
        ],
        "predicted_peak_bytes": [stage.total for stage in memory],
        "predicted_untracked_bytes": [stage.untracked.total for stage in memory],
        "predicted_activation_peak_bytes": [stage.activations_peak for stage in memory],
        "predicted_host_bytes": [stage.host for stage in memory],
        "predicted_collectives": [stage.calls for stage in shared],
        "predicted_collective_bytes": [stage.bytes for stage in shared],
    }


def sppo_plan(workload: Workload, options: SolverOptions | None = None) -> Any:
    """SPPO's plan of this workload, as its adapter makes it, without importing torch.

    Raises Infeasible, NotBuilt (no profile) or ValueError.
    """
    from sppo.config.hardware import load_profile
    from sppo.planner.solve import solve

    return solve(workload, load_profile(workload.cluster.hardware), options)


def sppo_layout(workload: Workload) -> tuple[int, int, str]:
    """PP and TP of SPPO on this workload, and in whose words.

    Where SPPO has no plan, a pipeline over all ranks stands in for it.
    """
    try:
        plan = sppo_plan(workload)
    except (ImportError, Infeasible, NotBuilt):
        return workload.cluster.ranks, 1, "no SPPO plan to follow:"
    return plan.pipeline_parallel, plan.sequence_parallel, "SPPO's"


def grid_assignments(system: str, workload: Workload) -> list[Assignment]:
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
