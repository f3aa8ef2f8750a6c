"""Counts of emulated and of real ranks as plain values. All that is read of either is read here."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines import registry
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import Counts, Emulation, Planned, RoleReport, SimulatedTime
from benchmarks.job import Accounted, Memory
from benchmarks.launch import run
from benchmarks.launch.progress import Lines
from benchmarks.records.record import Record
from benchmarks.regression.cases import RankCase
from benchmarks.regression.differences import Values
from benchmarks.rows.assign import with_settings
from benchmarks.rows.row import Row

TIME_LIMIT_SECONDS = 240.0
"""Of one rank: many times what it takes, for a machine that is busy."""

OPTIONS = run.Options(
    launches=1, warmup_steps=0, measured_steps=2, time_limit_seconds=TIME_LIMIT_SECONDS
)
"""Four optimizer steps: throw-away, accounted and two more, whose losses AdamW's state is in."""


def _silent() -> Lines:
    return Lines(io.StringIO())


def emulated_values(case: RankCase) -> Values:
    """All roles of a case, a process each, and the time that their counts would take."""
    with tempfile.TemporaryDirectory() as folder:
        emulator = Emulator(
            parent=Path(folder), time_limit_seconds=TIME_LIMIT_SECONDS, told=_silent()
        )
        return _emulation(emulator.emulate(case.workload, case.system, _settings(case)))


def _settings(case: RankCase) -> Any:
    return registry.load(case.system).settings_type(**case.settings)


def _emulation(emulation: Emulation) -> Values:
    values: Values = {
        "status": emulation.status,
        "roles": {f"rank {role.rank}": _role(role) for role in emulation.roles},
        "planned": _planned(emulation.planned),
        "simulated_time": _time(emulation.simulated_time),
    }
    return values if emulation.status == "ok" else {**values, "reason": emulation.reason}


def _role(role: RoleReport) -> Values:
    counts = role.counts
    return {"ranks": role.ranks, **({} if counts is None else _counts(counts))}


def _counts(counts: Counts) -> Values:
    """All but where in the step the peak is."""
    operations = counts.flops_by_operation
    return {
        "peak_device_bytes": counts.peak_device_bytes,
        "peak_host_bytes": counts.peak_host_bytes,
        "activation_peak_bytes": counts.activation_peak_bytes,
        "before_step_bytes": counts.before_step_bytes,
        "peak_by_kind_bytes": dict(counts.peak_by_kind_bytes),
        "at_peak_by_kind_bytes": dict(counts.at_peak_by_kind_bytes),
        "flops": counts.flops,
        "recomputed_flops": operations.recomputed,
        "flops_by_operator": dict(counts.flops_by_operator),
        "communication": {
            f"{item.operation} {item.group}": {
                "calls": item.calls,
                "bytes": item.bytes,
                "sent_bytes": item.sent_bytes,
            }
            for item in counts.communication
        },
        "copied_to_host_bytes": counts.copied_to_host_bytes,
        "copied_from_host_bytes": counts.copied_from_host_bytes,
    }


def _planned(planned: Sequence[Planned]) -> Values:
    """What SPPO's plan has predicted: "rank 0, kv_bytes"."""
    return {f"rank {item.rank}, {item.quantity}": item.planned for item in planned}


def _time(time: SimulatedTime | None) -> Values:
    if time is None:
        return {}
    return {
        "step_seconds": time.step_seconds,
        "step_seconds_if_hidden": time.step_seconds_if_hidden,
        "compute_seconds": time.compute_seconds,
        "optimizer_seconds": time.optimizer_seconds,
        "communication_seconds": dict(time.communication_seconds),
        "idle_share": time.idle_share,
        "mfu": time.mfu,
    }


def launched_values(cases: Sequence[RankCase]) -> dict[str, Values]:
    """Real ranks of every case, launched as `sppo-bench run` does; all have the same workload."""
    workload = cases[0].workload
    assert all(case.workload == workload for case in cases)
    with tempfile.TemporaryDirectory() as folder:
        directory = run.new_directory(Path(folder), workload)
        inputs = run.prepare(workload, OPTIONS, directory)
        values = {}
        for case in cases:
            row = Row(label=case.name, system=case.system, choosing="only one")
            adapter = registry.load(case.system)
            assignment = with_settings(row, adapter, _settings(case), grid="")
            record = run.launch_row(inputs, assignment, 1, OPTIONS, _silent())
            values[case.name] = _record(record)
    return values


def _record(record: Record) -> Values:
    values: Values = {
        "status": record.status,
        "loss": [step.loss for step in record.steps],
        "grad_norm": [step.grad_norm for step in record.steps],
    }
    for rank, (memory, accounted) in enumerate(zip(record.memory, record.accounted, strict=True)):
        values[f"rank {rank}"] = {**_memory(memory), **_accounted(accounted)}
    return values if record.status == "ok" else {**values, "reason": record.reason}


def _memory(memory: Memory) -> Values:
    """Peaks. Those of temporaries alone are left out, as `peak_device_bytes` has them in it.

    A thread of gloo lets go of its buffers some microseconds sooner or later, so two runs need not
    count the same temporaries. Emulated ranks do.
    """
    by_kind = memory.tracked_peak_by_kind_bytes.items()
    return {
        "peak_device_bytes": memory.tracked_peak_bytes,
        "peak_by_kind_bytes": {kind: size for kind, size in by_kind if kind != "temporary"},
        "activation_peak_bytes": memory.activation_peak_bytes,
        "host_peak_bytes": memory.host_peak_bytes,
        "live_before_bytes": memory.tracked_live_before_bytes,
    }


def _accounted(accounted: Accounted | None) -> Values:
    if accounted is None:
        return {}
    return {
        "flops_by_operator": dict(accounted.flops),
        "collective_calls": dict(accounted.collective_calls),
        "collective_bytes": dict(accounted.collective_bytes),
    }
