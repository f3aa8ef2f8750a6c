"""Records made by hand for the tests of everything that reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks import workloads
from benchmarks.job import Memory
from benchmarks.records import metrics
from benchmarks.records.record import Peak, Record, StepRecord, Text

MIB = 1024**2


def step(loss: float | None = 5.0, norm: float | None = 1.0, **changes: Any) -> StepRecord:
    values: dict[str, Any] = {"phase": "measured", "tokens": 512, "seconds": 0.5}
    return StepRecord(**{**values, "loss": loss, "grad_norm": norm, **changes})


def record(**changes: Any) -> Record:
    """One ok launch of SPPO on mini-cpu, of two ranks; `changes` are fields."""
    workload = workloads.find("mini-cpu")
    base = Record(
        workload=workload,
        system="sppo",
        row="SPPO",
        status="ok",
        launch=1,
        started="2026-11-24T07:27:59.000000Z",
        ranks=2,
        warmup_steps=1,
        steps=[step(phase="throw-away", tokens=64), step(), step(seconds=0.6), step(4.5)],
        tokens_per_step=512,
        tokens_per_second_per_rank=512.0,
        step_seconds_median=0.5,
        flops=metrics.step_flops(workload),
        peak=Peak(flops_per_second=1e11, source="a test", kind="measured"),
        memory=[Memory(tracked_peak_bytes=3 * MIB), Memory(tracked_peak_bytes=4 * MIB)],
        device_memory_bytes=workload.device_memory_bytes,
        enforcement="rlimit",
        settings={"subsequences": 4},
        settings_text="PP2, N 4",
        grid="planned",
        text=Text(description="some text", sha256="0" * 64),
        environment={"cpu_model": "a processor", "cores": 2, "commit": "a" * 40, "dirty": False},
    )
    return msgspec.structs.replace(base, **changes)


def slower(row: str, system: str, factor: float, **changes: Any) -> Record:
    """Another row whose steps take `factor` times as long."""
    base = record()
    steps = [msgspec.structs.replace(s, seconds=s.seconds * factor) for s in base.steps]
    return record(row=row, system=system, steps=steps, step_seconds_median=0.5 * factor, **changes)
