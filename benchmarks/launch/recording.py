"""From what ranks reported to the record of their launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.job import Job, RankReport
from benchmarks.launch.outcome import Outcome
from benchmarks.records import equal_work, metrics, timeline
from benchmarks.records.record import Peak, Record, Step, Text
from benchmarks.rows.row import Configuration
from benchmarks.worker import matmul_peak
from sppo.config.workload import Workload

RANKS_AGREE = 1e-6
"""Largest relative difference of what should be one number on all ranks."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What all launches of a run share. `cpu_peak` is of one rank, None on GPUs."""

    workload: Workload
    directory: Path
    text: Text
    cpu_peak: Peak | None
    environment: dict[str, Any]

    @property
    def weights_path(self) -> Path:
        return self.directory / "weights.pt"

    @property
    def tokens_path(self) -> Path:
        return self.directory / "tokens.npy"


def make_record(
    inputs: Inputs, assignment: Configuration, job: Job, outcome: Outcome, started: datetime
) -> Record:
    """The record of a launch that has ended, however it did."""
    reports = outcome.reports
    steps = merge_steps(reports)
    spread = metrics.spread(metrics.measured_seconds(steps)) if outcome.status == "ok" else None
    seconds = None if spread is None else spread.median
    flops = metrics.with_recompute(
        metrics.step_flops(job.workload), [report.accounted for report in reports]
    )
    peak = _peak(inputs, reports) if job.system != "reference" else None
    environment = {**inputs.environment, **(reports[0].environment if reports else {})}
    environment["versions"] = {
        **inputs.environment.get("versions", {}),
        **assignment.versions,
        **environment.get("versions", {}),
    }
    return Record(
        workload=job.workload,
        system=job.system,
        row=job.row,
        status=outcome.status,
        reason=outcome.reason,
        launch=job.launch,
        started=f"{started:%Y-%m-%dT%H:%M:%S.%fZ}",
        ranks=job.ranks,
        warmup_steps=sum(step.phase != "measured" for step in steps),
        steps=steps,
        tokens_per_step=job.workload.tokens_per_step,
        tokens_per_second_per_rank=(
            None if seconds is None else job.workload.tokens_per_step / seconds / job.ranks
        ),
        step_seconds_median=seconds,
        flops=flops,
        mfu_causal=metrics.utilisation(
            flops.dense + flops.attention_causal, seconds, job.ranks, peak
        ),
        mfu_full=metrics.utilisation(flops.dense + flops.attention_full, seconds, job.ranks, peak),
        hfu=(
            None
            if flops.recompute is None
            else metrics.utilisation(
                flops.dense + flops.attention_causal + flops.recompute, seconds, job.ranks, peak
            )
        ),
        peak=peak,
        memory=[report.memory for report in reports],
        device_memory_bytes=job.workload.device_memory_bytes,
        enforcement=reports[0].memory.enforcement if reports else None,
        settings=assignment.settings,
        settings_text=assignment.settings_text,
        tuned=assignment.tuned,
        grid=assignment.grid,
        text=inputs.text,
        accounted=[report.accounted for report in reports],
        bubble_share=_bubble_share(job) if outcome.status == "ok" else None,
        plan=assignment.plan,
        environment=environment,
    )


def merge_steps(reports: Sequence[RankReport]) -> list[Step]:
    """One list for all ranks: the slowest rank's seconds, rank 0's loss and norm.

    A step on whose loss or norm the ranks disagree has none, so that the gate refuses it.
    """
    merged = []
    for same in zip(*(report.steps for report in reports), strict=False):
        first = Step.of(same[0])
        seconds = max(step.seconds for step in same)
        for quantity in ("loss", "grad_norm"):
            values = {getattr(step, quantity) for step in same}
            value = getattr(first, quantity)
            if not all(equal_work.close(other, value, RANKS_AGREE) for other in values):
                first = msgspec.structs.replace(first, **{quantity: None})
        merged.append(msgspec.structs.replace(first, seconds=seconds))
    return merged


def _bubble_share(job: Job) -> float | None:
    """Measured on a CPU; on CUDA the host's clock says when work was queued, not when it ran."""
    if job.workload.cluster.device != "cpu":
        return None
    return timeline.bubble_share(timeline.read(Path(job.output_directory), job.ranks))


def _peak(inputs: Inputs, reports: Sequence[RankReport]) -> Peak | None:
    """One rank's peak: the datasheet's where it knows the GPU, else a measured one."""
    if inputs.workload.cluster.device == "cpu":
        return inputs.cpu_peak
    if not reports:
        return None
    known = metrics.datasheet_peak(str(reports[0].environment.get("device", "")))
    return known or matmul_peak.measured_peak(1, "cuda", inputs.workload.dtype)


def as_mismatch(record: Record, reason: str) -> Record:
    """The record of a launch that did other work: its steps stay, no rate is made from them."""
    return msgspec.structs.replace(
        record,
        status="mismatch",
        reason=reason,
        step_seconds_median=None,
        tokens_per_second_per_rank=None,
        mfu_causal=None,
        mfu_full=None,
        hfu=None,
    )
