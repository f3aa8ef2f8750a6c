"""Writing of records, timed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import workloads
from benchmarks.job import Memory
from benchmarks.records import metrics
from benchmarks.records.record import FILE_NAME, Record, StepRecord, write
from benchmarks.regression.targets.target import Repetition

STEPS = 8000


@contextmanager
def writing() -> Iterator[Repetition]:
    """The path of every record of a launch: encode, write beside, flush, rename."""
    workload = workloads.find("tiny-cpu")
    steps = [
        StepRecord(
            phase="measured",
            tokens=4096,
            seconds=1.0 + n / STEPS,
            loss=5.0 - n / STEPS,
            grad_norm=1.0,
        )
        for n in range(STEPS)
    ]
    record = Record(
        workload=workload,
        system="sppo",
        row="SPPO",
        status="ok",
        launch=1,
        started="2026-01-01T00:00:00.000000Z",
        ranks=workload.cluster.ranks,
        steps=steps,
        tokens_per_step=4096,
        flops=metrics.step_flops(workload),
        memory=[Memory() for _ in range(workload.cluster.ranks)],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME

        def repetition() -> object:
            write(record, path)
            return path.stat().st_size

        yield repetition
