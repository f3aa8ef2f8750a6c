"""Counts of emulated and of real ranks as plain values: the cases, and all that is read of them."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from importlib.metadata import files
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from baselines import registry
from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.megatron.settings import MegatronSettings
from baselines.native.settings import NativeSettings
from baselines.protocol import roles_of
from baselines.sppo import SppoSettings
from benchmarks.emulation import processes
from benchmarks.emulation.emulator import conclude
from benchmarks.emulation.result import Emulation, RoleReport, SimulatedTime
from benchmarks.environment import CHECKOUT
from benchmarks.job import Accounted, Memory
from benchmarks.launch import preparing, run
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.launch.recording import Inputs
from benchmarks.records import store
from benchmarks.records.record import Record
from benchmarks.regression.check.calls import LIMIT_SECONDS, emulated_roles
from benchmarks.regression.check.differences import Values
from benchmarks.regression.check.workers import Processes, measured
from benchmarks.rows.assign import with_settings
from benchmarks.rows.row import Row
from benchmarks.workloads import find, of_flags
from sppo.config.folders import in_checkout
from sppo.config.workload import Workload

OPTIONS = Options(launches=1, warmup_steps=0, measured_steps=2, time_limit_seconds=240.0)
"""Four optimizer steps: throw-away, accounted, and two whose losses depend on AdamW's state."""

LARGER_LIMIT_SECONDS = 7200.0
"""Of a role of a full-size emulation."""

FULL_OFFLOAD = SppoSettings(subsequences=4, msp=True, policy="full-offload")

SILENT = Lines(io.StringIO())

NOT_COMPARED = ("peak_at", "flops_by_operation", "communication_bytes")
"""Counts of an emulated rank that are left out: the moment of the peak, and sums of others."""

TIMES = (
    *("step_seconds", "step_seconds_if_hidden", "compute_seconds", "optimizer_seconds"),
    *("communication_seconds", "idle_share", "mfu"),
)
"""Numbers of a simulated time that are compared."""

StepTask: TypeAlias = tuple[str, Workload, Any]
"""A system, its workload and its settings."""

RankCases: TypeAlias = dict[str, tuple[Workload, Any]]
"""By name, which begins with the system: a workload and the system's settings."""


def emulated_cases() -> RankCases:
    """Small roles of each system in bfloat16, a few seconds each."""
    gpt = of_flags(model="gpt-tiny", seq="4K", gpus=4, hardware="a100-80g")
    llama = of_flags(model="llama-tiny", seq="4K", gpus=4, hardware="a100-80g")
    return {
        "megatron, TP 2 SP x PP 2, full recompute, 4 sequences": (
            replace(gpt, sequences_per_step=4),
            MegatronSettings(
                tensor_parallel=2, pipeline_parallel=2, sequence_parallel=True, recompute="full"
            ),
        ),
        "deepspeed, Ulysses 2, ZeRO-3, checkpointed, 2 sequences": (
            replace(gpt, sequences_per_step=2),
            DeepSpeedSettings(sequence_parallel=2, zero_stage=3, checkpointing="blocks"),
        ),
        "native, Ulysses 2 x ring 2, attention saved, 2 sequences": (
            replace(gpt, sequences_per_step=2),
            NativeSettings(sequence_parallel=2, context_parallel=2, checkpointing="save-attention"),
        ),
        "sppo, Ulysses 2 x PP 2, MSP, full offload, llama": (
            llama,
            replace(FULL_OFFLOAD, sequence_parallel=2, ulysses_parallel=2, pipeline_parallel=2),
        ),
        "sppo, TP 4, hosted KV, full recompute": (
            gpt,
            SppoSettings(
                sequence_parallel=4,
                ulysses_parallel=1,
                subsequences=4,
                kv_offload=True,
                policy="full-recompute",
            ),
        ),
    }


def gloo_cases() -> RankCases:
    """Real launches at mini-cpu on two ranks; the text is the same on every machine."""
    mini = replace(find("mini-cpu"), text=str(_license()))
    return {
        "megatron, PP 2, full recompute": (
            mini,
            MegatronSettings(pipeline_parallel=2, recompute="full"),
        ),
        "deepspeed, Ulysses 2, ZeRO-1, checkpointed": (
            mini,
            DeepSpeedSettings(sequence_parallel=2, zero_stage=1, checkpointing="blocks"),
        ),
        "native, Ulysses 2, messages saved": (
            mini,
            NativeSettings(sequence_parallel=2, checkpointing="save-messages"),
        ),
        "sppo, PP 2, N 4, MSP, full offload": (
            mini,
            replace(FULL_OFFLOAD, pipeline_parallel=2, virtual_stages=1),
        ),
    }


def _license() -> Path:
    """A text that is the same in every checkout and beside every installed package."""
    if in_checkout():
        return CHECKOUT / "LICENSE"
    (text,) = (path for path in files("sppo-suite") or () if path.name == "LICENSE")
    return Path(str(text.locate()))


def larger_cases() -> RankCases:
    """Full-size steps of each system, for the night: minutes."""
    big = find("gpt-7b-1m-32xa100")
    return {
        "megatron, 1M/32, TP 8 SP x PP 4, full recompute": (
            big,
            MegatronSettings(
                tensor_parallel=8, pipeline_parallel=4, sequence_parallel=True, recompute="full"
            ),
        ),
        "deepspeed, 1M/32, Ulysses 32, ZeRO-3, checkpointed": (
            big,
            DeepSpeedSettings(sequence_parallel=32, zero_stage=3, checkpointing="blocks"),
        ),
        "sppo, 1M/32": (big, SppoSettings()),
        "sppo, 4M/128": (find("gpt-7b-4m-128xa100"), SppoSettings()),
    }


def step_tasks(cases: RankCases) -> dict[str, StepTask]:
    """The emulated steps, each with its system."""
    return {name: (_system(name), *case) for name, case in cases.items()}


def emulated_values(task: StepTask, workers: Processes, *, larger: bool = False) -> Values:
    """All roles of an emulated step, with operators and calls, and its simulated time.

    A larger one without operators and calls: a full-size step takes minutes.
    """
    system, workload, settings = task
    adapter = registry.load(system)
    limit_seconds = LARGER_LIMIT_SECONDS if larger else LIMIT_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        job = processes.make_job(workload, adapter, settings, Path(folder))
        store.save(Path(folder) / "job.json", job)
        roles = roles_of(adapter, workload, settings)
        counted = emulated_roles(roles, job, workers, limit_seconds, further=not larger)
    emulation = conclude(workload, adapter, settings, [report for report, _ in counted])
    values = _emulation(emulation)
    for report, more in counted:
        values["roles"][f"rank {report.rank}"].update(more)
    return values


def _system(name: str) -> str:
    return name.partition(",")[0]


def _emulation(emulation: Emulation) -> Values:
    values: Values = {
        "status": emulation.status,
        "roles": {f"rank {role.rank}": _role(role) for role in emulation.roles},
        "planned": {
            f"rank {number.rank}, {number.quantity}": number.planned for number in emulation.planned
        },
        "simulated_time": _time(emulation.simulated_time),
    }
    return values if emulation.status == "ok" else {**values, "reason": emulation.reason}


def _role(role: RoleReport) -> Values:
    if role.counts is None:
        return {"ranks": role.ranks}
    counts: Values = msgspec.to_builtins(role.counts)
    return {name: value for name, value in counts.items() if name not in NOT_COMPARED} | {
        "ranks": role.ranks,
        "recomputed_flops": role.counts.flops_by_operation.recomputed,
        "communication": {
            f"{traffic.operation} {traffic.group}": {
                "calls": traffic.calls,
                "bytes": traffic.bytes,
                "sent_bytes": traffic.sent_bytes,
            }
            for traffic in role.counts.communication
        },
    }


def _time(time: SimulatedTime | None) -> Values:
    return {} if time is None else {name: getattr(time, name) for name in TIMES}


def launched_values() -> dict[str, Values]:
    """Real ranks of every gloo case, launched as `sppo-bench run` does; one workload for all."""
    cases = gloo_cases()
    (workload,) = {workload for workload, _ in cases.values()}
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = preparing.prepare(
            workload, OPTIONS, run.new_directory(Path(folder), workload.name)
        )
        for name, (_, settings) in cases.items():
            values[name] = measured(_launched, inputs, name, settings)
    return values


def _launched(inputs: Inputs, name: str, settings: Any) -> Values:
    adapter = registry.load(_system(name))
    row = Row(label=name, system=adapter.name, choosing="only one")
    configuration = with_settings(row, adapter, settings, grid="")
    return _record(run.launch_row(inputs, configuration, 1, OPTIONS, SILENT))


def _record(record: Record) -> Values:
    values: Values = {
        "status": record.status,
        "loss": [step.loss for step in record.steps],
        "grad_norm": [step.grad_norm for step in record.steps],
    }
    for rank, (memory, accounted) in enumerate(zip(record.memory, record.accounted, strict=True)):
        values[f"rank {rank}"] = _rank(memory, accounted or Accounted())
    return values if record.status == "ok" else {**values, "reason": record.reason}


def _rank(memory: Memory, accounted: Accounted) -> Values:
    """Peaks in bytes, FLOPs, and collectives of a real rank.

    The peak of temporaries is left out; `peak_device_bytes` contains them. A thread of gloo frees
    its buffers some microseconds sooner or later, so two runs need not count the same temporaries.
    Emulated ranks do.
    """
    by_kind = memory.tracked_peak_by_kind_bytes.items()
    return {
        "peak_device_bytes": memory.tracked_peak_bytes,
        "peak_by_kind_bytes": {kind: size for kind, size in by_kind if kind != "temporary"},
        "activation_peak_bytes": memory.activation_peak_bytes,
        "host_peak_bytes": memory.host_peak_bytes,
        "live_before_bytes": memory.tracked_live_before_bytes,
        "flops_by_operator": accounted.flops,
        "collective_calls": accounted.collective_calls,
        "collective_bytes": accounted.collective_bytes,
    }
