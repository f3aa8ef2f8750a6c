"""What an emulated step tells: by rank, and as a verdict. Every key: docs/emulation.md.

Files of an emulation's folder: job.json (EmulationJob), role-{rank}.json (RoleReport),
live-{rank}.csv and .png (live bytes over the step), log-{rank}.txt, emulation.json (Emulation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from baselines.protocol import Role
from benchmarks.accounting.memory_timeline import Moment
from benchmarks.job import Status
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload
from sppo.plan.plan import StepPlans

KINDS = ("weights", "gradients", "optimizer", "activations", "kv", "dkv", "staging", "temporary")

SCHEMA = "sppo-emulation/1"
LABEL = "emulated"

Link = Literal["in node", "between nodes"]


class EmulationJob(msgspec.Struct, frozen=True, kw_only=True):
    """What every emulated rank is told. `settings` and `plans`: as in `benchmarks.job.Job`."""

    workload: Workload
    system: str
    settings: dict[str, Any]
    output_directory: str
    plans: StepPlans | None = None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """All calls of one operation in one group ("0-7", "0-24 by 8"; "0 > 8" from rank to rank).

    bytes: the larger side of each call. sent_bytes: what this rank must send for it at least. A
    group that spans nodes is charged to the link between them.
    """

    operation: str
    group: str
    group_ranks: int
    link: Link
    calls: int
    bytes: int
    sent_bytes: int


class Operations(msgspec.Struct, frozen=True, kw_only=True):
    """FLOPs, a multiply-add being two. `recomputed` are part of the others.

    attention_causal: the query-key pairs that the mask leaves; attention_full: all of the calls'.
    """

    matmul: int
    attention_causal: int
    attention_full: int
    recomputed: int


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's step. `flops` are matmul and causal attention, what is recomputed included.

    activation_peak_bytes: of activations, KV and dKV together as the system itself labels them.
    """

    peak_device_bytes: int
    peak_host_bytes: int
    activation_peak_bytes: int
    before_step_bytes: int
    peak_by_kind_bytes: dict[str, int]
    at_peak_by_kind_bytes: dict[str, int]
    peak_at: Moment
    flops: int
    flops_by_operation: Operations
    flops_by_operator: dict[str, int]
    communication_bytes: int
    communication_by_link_bytes: dict[Link, int]
    communication: list[Traffic]
    copied_to_host_bytes: int
    copied_from_host_bytes: int


class RoleReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rank for all that do the same. Counts are None where the step did not come to its end.

    phase: where it broke ("prepare", "throw-away step", "step: backward 3"). seconds and
    process_peak_bytes: what the emulation itself took. reused: by an earlier command, from the
    cache.
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


class SimulatedTime(msgspec.Struct, frozen=True, kw_only=True):
    """What the emulated step would take: simulated, and as good as the profile.

    `step_seconds`: messages hide only where the schedule hides them; `_if_hidden`: no message takes
    time. compute_, optimizer_ and communication_seconds (by link, hidden or not) are those of
    `role`, which works longest. idle_share: of all ranks' time in `step_seconds`. mfu: the
    workload's causal FLOPs, without recomputation, over all ranks' peak.
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
    idle_share: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    mfu: float
    mfu_if_hidden: float
    assumptions: list[str]


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One number that SPPO's plan has predicted of a role's step, in bytes or calls."""

    role: str
    rank: int
    quantity: str
    planned: int
    counted: int


class Emulation(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict over the roles asked for; `fits` is None where one of them was not counted.

    directory: where its files were written, on the machine that made it; "" if nothing ran.
    planned: of SPPO what its plan has predicted of the counted roles, else empty.
    `simulated_time` is None wherever a rank was not counted, within its limits or not.
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


def with_counts(report: RoleReport, counts: Counts) -> RoleReport:
    """The same report of a step that came to its end."""
    return msgspec.structs.replace(
        report,
        peak_device_bytes=counts.peak_device_bytes,
        peak_host_bytes=counts.peak_host_bytes,
        flops=counts.flops,
        communication_bytes=counts.communication_bytes,
        counts=counts,
    )


def failed(role: Role, status: Status, reason: str) -> RoleReport:
    """The report of a role that could not write one itself."""
    return RoleReport(
        role=role.name, rank=role.rank, ranks=role.ranks, status=status, reason=reason
    )


def verdict(reports: Sequence[RoleReport], workload: Workload) -> dict[str, Any]:
    """status, fits, reason and limiting_role of an Emulation, from its roles and capacities."""
    counted = [(report, report.counts) for report in reports if report.counts is not None]
    largest = max(counted, key=lambda pair: pair[1].peak_device_bytes, default=None)
    limiting = None if largest is None else largest[0].role
    worst = _worst(counted, workload)
    if worst is not None:
        return {"fits": False, "limiting_role": worst[1], "status": worst[0], "reason": worst[2]}
    for report in reports:
        if report.counts is None:
            reason = f"{report.role}, {report.phase}: {report.reason}"
            shared = {"fits": None, "limiting_role": limiting, "reason": reason}
            return {"status": report.status, **shared}
    return {"fits": True, "limiting_role": limiting, "status": "ok", "reason": ""}


def _worst(
    counted: Sequence[tuple[RoleReport, Counts]], workload: Workload
) -> tuple[Status, str, str] | None:
    """(status, role, reason) of the role that is the furthest over a capacity."""
    found: list[tuple[int, tuple[Status, str, str]]] = []
    for report, counts in counted:
        for status, tier, peak_bytes, capacity_bytes in _tiers(counts, workload):
            if capacity_bytes is not None and peak_bytes > capacity_bytes:
                reason = (
                    f"{report.role} needs {format_bytes(peak_bytes)} of {tier} memory, "
                    f"{format_bytes(capacity_bytes)} are there; peak {moment_text(counts.peak_at)}"
                )
                found.append((peak_bytes - capacity_bytes, (status, report.role, reason)))
    return max(found)[1] if found else None


def exceeds(report: RoleReport, workload: Workload) -> bool:
    """Whether this role alone needs more than a tier has."""
    return report.counts is not None and any(
        capacity_bytes is not None and peak_bytes > capacity_bytes
        for _, _, peak_bytes, capacity_bytes in _tiers(report.counts, workload)
    )


def _tiers(counts: Counts, workload: Workload) -> tuple[tuple[Status, str, int, int | None], ...]:
    """(what too much is called, tier, peak, capacity) in bytes."""
    return (
        ("oom", "device", counts.peak_device_bytes, workload.device_memory_bytes),
        ("host_oom", "host", counts.peak_host_bytes, workload.host_memory_bytes),
    )


def moment_text(moment: Moment) -> str:
    """ "in backward 1 of 8, aten.mm": a moment in words."""
    where = f"in the {moment.phase}"
    if moment.phase == "backward":
        where = f"in backward {moment.backwards} of {moment.all_backwards}"
    elif moment.phase == "forward":
        where = f"in a forward, {moment.backwards} of {moment.all_backwards} backwards done"
    return f"{where} ({moment.operation})" if moment.operation else where
