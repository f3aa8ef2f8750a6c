"""The result of an emulated step: by rank, and as a verdict. Every key: docs/emulation.md.

Files of an emulation's folder: job.json (EmulationJob), role-{rank}.json (RoleReport),
live-{rank}.csv and .png (live bytes over the step), log-{rank}.txt, emulation.json (Emulation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from baselines.protocol import Role
from benchmarks.accounting.memory_timeline import StepPosition
from benchmarks.job import Status
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload
from sppo.plan.plan import StepPlans

KINDS = ("weights", "gradients", "optimizer", "activations", "kv", "dkv", "staging", "temporary")
"""Kinds of device bytes, in the order of curve and figure."""

SCHEMA = "sppo-emulation/1"
LABEL = "emulated"

Link = Literal["in node", "between nodes"]


class EmulationJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job that every emulated rank reads. `settings`, `plans`: see `benchmarks.job.Job`."""

    workload: Workload
    system: str
    settings: dict[str, Any]
    output_directory: str
    plans: StepPlans | None = None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """All calls of one operation in one group ("0-7", "0-24 by 8"; "0 > 8" from rank to rank).

    bytes: of the larger side of each call. sent_bytes: the least that this rank must send. A group
    that spans nodes is charged to the link between nodes.
    """

    operation: str
    group: str
    group_ranks: int
    link: Link
    calls: int
    bytes: int
    sent_bytes: int


class Operations(msgspec.Struct, frozen=True, kw_only=True):
    """FLOPs; a multiply-add is two. `recomputed` FLOPs are part of the first two.

    attention_causal: of the query-key pairs that the mask leaves; attention_full: of all pairs.
    """

    matmul: int
    attention_causal: int
    attention_full: int
    recomputed: int


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one rank's step. `flops`: matmul and causal attention, recomputation included.

    activation_peak_bytes: of activations, KV and dKV together, by the system's own labels.
    before_step_bytes: on the device when the step begins. Every key: docs/emulation.md.
    """

    peak_device_bytes: int
    peak_host_bytes: int
    activation_peak_bytes: int
    before_step_bytes: int
    peak_by_kind_bytes: dict[str, int]
    at_peak_by_kind_bytes: dict[str, int]
    peak_at: StepPosition
    flops: int
    flops_by_operation: Operations
    flops_by_operator: dict[str, int]
    communication_bytes: int
    communication_by_link_bytes: dict[Link, int]
    communication: list[Traffic]
    copied_to_host_bytes: int
    copied_from_host_bytes: int


class RoleReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rank, for all ranks of its role. Counts are None where the step did not end.

    phase: where the rank broke ("prepare", "throw-away step", "step: backward 3"). seconds and
    process_peak_bytes: cost of the emulation itself. reused: from the cache, by an earlier command.
    stale_commit: the commit of older code whose cache entry was accepted; "" of the present code.
    """

    role: str
    rank: int
    ranks: int
    status: Status
    reason: str = ""
    phase: str = "start"
    peak_device_bytes: int | None = None
    peak_host_bytes: int | None = None
    flops: int | None = None
    communication_bytes: int | None = None
    counts: Counts | None = None
    versions: dict[str, str] = {}
    seconds: float | None = None
    process_peak_bytes: int | None = None
    reused: bool = False
    stale_commit: str = ""


def stale_text(roles: Sequence[RoleReport]) -> str:
    """ "stale: counted at commit 1a2b3c4d5", for roles of older code; "" without any."""
    commits = dict.fromkeys(role.stale_commit[:9] for role in roles if role.stale_commit)
    return f"stale: counted at commit {', '.join(commits)}" if commits else ""


class SimulatedTime(msgspec.Struct, frozen=True, kw_only=True):
    """The time of the emulated step: simulated, and as good as the profile.

    `step_seconds`: messages hide only where the schedule hides them; `_if_hidden`: no message takes
    time. compute_, optimizer_, communication_ (by link) and copy_seconds, hidden or not, are of
    `role`, the role that works longest. idle_share: of all ranks' time in `step_seconds`. mfu: the
    workload's causal FLOPs, without recomputation, over all ranks' peak. kernel_limit_share: the
    step at the kernel limit over `step_seconds`; None in older files.
    """

    label: str = "simulated"
    profile: str
    profile_kind: str
    role: str
    step_seconds: float
    step_seconds_if_hidden: float
    compute_seconds: float
    optimizer_seconds: float
    communication_seconds: dict[str, float]
    copy_seconds: float = 0.0
    idle_share: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    mfu: float
    mfu_if_hidden: float
    kernel_limit_share: float | None = None
    assumptions: list[str]


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One number that SPPO's plan predicts of a role's step, and its count: bytes or calls."""

    role: str
    rank: int
    quantity: str
    planned: int
    counted: int


class Emulation(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict over the roles asked for; `fits` is None where one of them was not counted.

    directory: of its files, on the machine that made them; "" if nothing ran. planned: predictions
    of SPPO's plan for the counted roles; empty for other systems. `simulated_time` is None where a
    rank was not counted, whether the ranks fit or not.
    """

    schema: str = SCHEMA
    label: str = LABEL
    workload: Workload
    system: str
    settings: dict[str, Any]
    settings_text: str
    status: Status
    fits: bool | None
    reason: str
    limiting_role: str | None
    capacity_bytes: int | None
    host_capacity_bytes: int | None
    roles: list[RoleReport]
    directory: str = ""
    simulated_time: SimulatedTime | None = None
    planned: list[Planned] = []
    environment: dict[str, Any] = {}


def failed(role: Role, status: Status, reason: str) -> RoleReport:
    """The report of a role whose rank left no report."""
    return RoleReport(
        role=role.name, rank=role.rank, ranks=role.ranks, status=status, reason=reason
    )


def _excesses(report: RoleReport, workload: Workload) -> list[tuple[int, Status, str, str]]:
    """(bytes over the capacity, status, role, reason) of each memory tier that the role exceeds."""
    counts = report.counts
    if counts is None:
        return []
    tiers: tuple[tuple[Status, str, int, int | None], ...] = (
        ("oom", "device", counts.peak_device_bytes, workload.device_memory_bytes),
        ("host_oom", "host", counts.peak_host_bytes, workload.host_memory_bytes),
    )
    excesses = []
    for status, tier, peak_bytes, capacity_bytes in tiers:
        if capacity_bytes is not None and peak_bytes > capacity_bytes:
            reason = (
                f"{report.role} needs {format_bytes(peak_bytes)} of {tier} memory, "
                f"{format_bytes(capacity_bytes)} are there; peak {position_text(counts.peak_at)}"
            )
            excesses.append((peak_bytes - capacity_bytes, status, report.role, reason))
    return excesses


def exceeds(report: RoleReport, workload: Workload) -> bool:
    """Whether this role alone needs more than a memory tier has."""
    return bool(_excesses(report, workload))


def verdict(reports: Sequence[RoleReport], workload: Workload) -> dict[str, Any]:
    """status, fits, reason and limiting_role of an Emulation, from its roles and capacities.

    The role furthest over a capacity decides; else the first role without counts leaves it open.
    """
    excesses = [excess for report in reports for excess in _excesses(report, workload)]
    if excesses:
        _, status, role, reason = max(excesses)
        return {"status": status, "fits": False, "limiting_role": role, "reason": reason}
    peaks = [(report.counts.peak_device_bytes, report.role) for report in reports if report.counts]
    limiting = max(peaks, key=lambda peak: peak[0], default=(0, None))
    shared = {"limiting_role": limiting[1]}
    lost = next((report for report in reports if report.counts is None), None)
    if lost is None:
        return {**shared, "status": "ok", "fits": True, "reason": ""}
    reason = f"{lost.role}, {lost.phase}: {lost.reason}"
    return {**shared, "status": lost.status, "fits": None, "reason": reason}


def position_text(position: StepPosition) -> str:
    """ "in backward 1 of 8 (mm)": a position in the step in words."""
    count = f"{position.backwards} of {position.all_backwards}"
    where = {
        "forward": f"in a forward, {count} backwards done",
        "backward": f"in backward {count}",
        "optimizer": "in the optimizer",
    }[position.phase]
    return f"{where} ({position.operation})" if position.operation else where
