"""A plan beside what emulating it has counted, number by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.emulation.result import Counts, Planned, RoleReport
from sppo.comm.mesh import coordinate_of
from sppo.cost_model.collectives import step_collectives
from sppo.cost_model.plan_costs import stage_kv_copied_bytes, stage_offloaded_bytes
from sppo.plan.plan import Plan


def planned_beside_counted(plan: Plan, reports: Sequence[RoleReport]) -> list[Planned]:
    """Of every role that was counted."""
    counted = [(report, report.counts) for report in reports if report.counts is not None]
    rows = []
    for report, counts in counted:
        predicted = _predicted(plan, coordinate_of(plan, report.rank).stage)
        seen = _seen(counts)
        rows += [
            Planned(
                role=report.role,
                rank=report.rank,
                quantity=name,
                planned=predicted[name],
                counted=seen[name],
            )
            for name in predicted
        ]
    return rows


def _predicted(plan: Plan, stage: int) -> Mapping[str, int]:
    memory = plan.stages[stage].memory
    shared = step_collectives(plan, stage)
    moved_bytes = 2 * stage_offloaded_bytes(plan, stage) + stage_kv_copied_bytes(plan, stage)
    return {
        "peak_device_bytes": memory.total,
        "activation_peak_bytes": memory.activations_peak,
        "kv_bytes": memory.kv,
        "dkv_bytes": memory.dkv,
        "peak_host_bytes": memory.host + memory.kv_host,
        "copied_bytes": moved_bytes,
        "messages": plan.predicted.messages[stage],
        "message_bytes": plan.predicted.message_bytes[stage],
        "collectives": shared.calls,
        "collective_bytes": shared.bytes,
    }


def _seen(counts: Counts) -> Mapping[str, int]:
    sent = [one for one in counts.communication if one.operation == "send"]
    shared = [one for one in counts.communication if one.operation not in ("send", "recv")]
    return {
        "peak_device_bytes": counts.peak_device_bytes,
        "activation_peak_bytes": counts.activation_peak_bytes,
        "kv_bytes": counts.peak_by_kind_bytes.get("kv", 0),
        "dkv_bytes": counts.peak_by_kind_bytes.get("dkv", 0),
        "peak_host_bytes": counts.peak_host_bytes,
        "copied_bytes": counts.copied_to_host_bytes + counts.copied_from_host_bytes,
        "messages": sum(one.calls for one in sent),
        "message_bytes": sum(one.bytes for one in sent),
        "collectives": sum(one.calls for one in shared),
        "collective_bytes": sum(one.bytes for one in shared),
    }
