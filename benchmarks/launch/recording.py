"""From the reports of the ranks to the record of their launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.job import Job, Kernels, RankReport
from benchmarks.launch.ranks.outcome import Outcome
from benchmarks.launch.ranks.team import ALONE, Team
from benchmarks.records import equal_work, metrics, timeline
from benchmarks.records.record import Peak, Record, StepRecord, Text
from benchmarks.rows.row import Configuration
from benchmarks.worker.steady_peak import steady_peak
from sppo.config.workload import Workload

TODAYS_KERNELS = Kernels()
"""Of runs without a choice, such as the launches of studies."""

RANKS_AGREE = 1e-6
"""Largest relative difference of a loss or norm between ranks of a launch."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of all launches of a run. `cpu_peak` is the peak of one rank, None on GPUs.

    make_files: of a resumed run, called before a launch; writes missing weights and tokens. team:
    the other nodes. kernels: of all rows.
    """

    workload: Workload
    directory: Path
    text: Text
    cpu_peak: Peak | None
    environment: dict[str, Any]
    make_files: Callable[[], None] | None = None
    team: Team = ALONE
    kernels: Kernels = TODAYS_KERNELS

    @property
    def weights_path(self) -> Path:
        """The file of the initial weights."""
        return self.directory / "weights.pt"

    @property
    def tokens_path(self) -> Path:
        """The file of the tokens of all steps."""
        return self.directory / "tokens.npy"


def make_record(
    inputs: Inputs, configuration: Configuration, job: Job, outcome: Outcome, started: datetime
) -> Record:
    """The record of a launch that has ended, with any outcome."""
    reports = outcome.reports
    steps = merge_steps(reports)
    accounted = [report.accounted for report in reports]
    flops = metrics.with_recompute(metrics.step_flops(job.workload), accounted)
    peak = _peak(inputs, reports) if job.system != "reference" else None
    environment = {**inputs.environment, **(reports[0].environment if reports else {})}
    environment["versions"] = {
        **inputs.environment.get("versions", {}),
        **configuration.versions,
        **environment.get("versions", {}),
    }
    record = Record(
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
        flops=flops,
        peak=peak,
        memory=[report.memory for report in reports],
        device_memory_bytes=job.workload.device_memory_bytes,
        enforcement=reports[0].memory.enforcement if reports else None,
        settings=configuration.settings,
        settings_text=configuration.settings_text,
        tuned=configuration.tuned,
        grid=configuration.grid,
        text=inputs.text,
        accounted=accounted,
        bubble_share=_bubble_share(job) if outcome.status == "ok" else None,
        kernels=None if job.system == "reference" else job.kernels,
        plan=configuration.plan,
        environment=environment,
    )
    return _with_rates(record) if outcome.status == "ok" else record


def _with_rates(record: Record) -> Record:
    """The record with the rates that follow from its measured steps."""
    spread = metrics.spread(metrics.measured_seconds(record.steps))
    if spread is None:
        return record
    seconds, flops, ranks = spread.median, record.flops, record.ranks
    return msgspec.structs.replace(
        record,
        step_seconds_median=seconds,
        tokens_per_second_per_rank=record.tokens_per_step / seconds / ranks,
        mfu_causal=metrics.utilisation(flops.causal, seconds, ranks, record.peak),
        mfu_full=metrics.utilisation(flops.full, seconds, ranks, record.peak),
        hfu=metrics.utilisation(flops.executed, seconds, ranks, record.peak),
    )


def merge_steps(reports: Sequence[RankReport]) -> list[StepRecord]:
    """The steps of a launch: seconds of the slowest rank, loss and norm of rank 0.

    Where the ranks disagree on a loss or norm, it is None, so that the gate refuses the step.
    """
    merged = []
    for by_rank in zip(*(report.steps for report in reports), strict=False):
        step = StepRecord.of(by_rank[0])
        changes: dict[str, float | None] = {"seconds": max(report.seconds for report in by_rank)}
        for quantity in ("loss", "grad_norm"):
            value = getattr(step, quantity)
            values = {getattr(report, quantity) for report in by_rank}
            if not all(equal_work.close(reported, value, RANKS_AGREE) for reported in values):
                changes[quantity] = None
        merged.append(msgspec.structs.replace(step, **changes))
    return merged


def _bubble_share(job: Job) -> float | None:
    """Measured on a CPU only: on CUDA the host's clock has the time at which work was queued."""
    if job.workload.cluster.device != "cpu":
        return None
    return timeline.bubble_share(timeline.read(Path(job.output_directory), job.ranks))


def _peak(inputs: Inputs, reports: Sequence[RankReport]) -> Peak | None:
    """The peak of one rank: from the datasheet where it lists the GPU, else measured."""
    if inputs.workload.cluster.device == "cpu":
        return inputs.cpu_peak
    if not reports:
        return None
    known = metrics.datasheet_peak(str(reports[0].environment.get("device", "")))
    return known or steady_peak(1, "cuda", inputs.workload.dtype)


def as_mismatch(record: Record, reason: str) -> Record:
    """The record of a launch that did different work: with its steps, without rates."""
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


def before_gate(record: Record) -> Record:
    """The record as its launch wrote it, so that the gate can judge a mismatch anew."""
    if record.status != "mismatch":
        return record
    return _with_rates(msgspec.structs.replace(record, status="ok", reason=""))
