"""The predictions of a plan beside the counts of its emulation, number by number."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.emulation.result import Counts, Planned, RoleReport
from sppo.comm.mesh import coordinate_of
from sppo.cost_model.collectives import step_collectives
from sppo.cost_model.hosted_kv import stage_kv_copied_bytes
from sppo.cost_model.plan_costs import stage_offloaded_bytes
from sppo.plan.plan import Plan


def planned_beside_counted(plan: Plan, reports: Sequence[RoleReport]) -> list[Planned]:
    """All predicted numbers of every role that was counted, in bytes or calls."""
    return [
        Planned(role=report.role, rank=report.rank, quantity=name, planned=planned, counted=counted)
        for report in reports
        if report.counts is not None
        for name, (planned, counted) in _pairs(
            plan, coordinate_of(plan, report.rank).stage, report.counts
        ).items()
    ]


def _pairs(plan: Plan, stage: int, counts: Counts) -> dict[str, tuple[int, int]]:
    """(planned, counted) by quantity."""
    memory = plan.stages[stage].memory
    kinds = counts.peak_by_kind_bytes
    copied_bytes = 2 * stage_offloaded_bytes(plan, stage) + stage_kv_copied_bytes(plan, stage)
    sends = [traffic for traffic in counts.communication if traffic.operation == "send"]
    collectives = [t for t in counts.communication if t.operation not in ("send", "recv")]
    planned = step_collectives(plan, stage)
    return {
        "peak_device_bytes": (memory.total, counts.peak_device_bytes),
        "activation_peak_bytes": (memory.activations_peak, counts.activation_peak_bytes),
        "kv_bytes": (memory.kv, kinds.get("kv", 0)),
        "dkv_bytes": (memory.dkv, kinds.get("dkv", 0)),
        "peak_host_bytes": (memory.host + memory.kv_host, counts.peak_host_bytes),
        "copied_bytes": (copied_bytes, counts.copied_to_host_bytes + counts.copied_from_host_bytes),
        "messages": (plan.predicted.messages[stage], sum(t.calls for t in sends)),
        "message_bytes": (plan.predicted.message_bytes[stage], sum(t.bytes for t in sends)),
        "collectives": (planned.calls, sum(t.calls for t in collectives)),
        "collective_bytes": (planned.bytes, sum(t.bytes for t in collectives)),
    }
