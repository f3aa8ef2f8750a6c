"""From the records of a run folder to entries: the same numbers as in the run's table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.records.record import Record, group_by, read_all
from benchmarks.regression.history.entry import Entry, Machine, Metric, versions_of
from benchmarks.regression.history.void import void_reason
from benchmarks.reporting import tables
from benchmarks.reporting.tables import Summary
from benchmarks.rows.row import slug_of
from sppo.config.sizes import length_name, limit_label


def entries_of_run(directory: Path) -> list[Entry]:
    """An entry for each machine, commit and set of versions in the folder. Raises RecordError."""
    return [
        _entry(records, directory.resolve().name)
        for records in group_by(read_all(directory), _key).values()
    ]


def _key(record: Record) -> bytes:
    environment = record.environment
    known = (environment.get("commit"), environment.get("dirty"))
    return msgspec.json.encode((Machine.of(environment), versions_of(environment), known))


def _entry(records: Sequence[Record], source: str) -> Entry:
    environment = records[0].environment
    return Entry(
        kind="run",
        date=records[0].started,
        commit=environment.get("commit") or "",
        dirty=bool(environment.get("dirty")),
        machine=Machine.of(environment),
        versions=versions_of(environment),
        metrics=[
            metric for summary in tables.summaries(records) for metric in _row(records, summary)
        ],
        void=void_reason(records),
        source=source,
    )


def _row(records: Sequence[Record], summary: Summary) -> Iterator[Metric]:
    """The metrics of a row; none of a row without numbers."""
    record = next(record for record in records if record.row == summary.row)
    workload = record.workload
    place = f"{workload.name}-{limit_label(record.device_memory_bytes)}/{slug_of(summary.row)}"
    setting = _setting(record)
    if summary.step_seconds is not None:
        yield Metric(
            name=f"{place}/step_seconds",
            value=summary.step_seconds.median,
            low=summary.step_seconds.low,
            high=summary.step_seconds.high,
            unit="s",
            setting=setting,
            void=summary.timing_reason if summary.timing == "unsettled" else "",
        )
    if summary.tracked_peak_bytes is not None:
        peak = summary.tracked_peak_bytes
        name = f"{place}/peak_device_bytes"
        yield Metric(name=name, value=peak, unit="bytes", setting=setting)  # gloo's buffers vary
    if summary.sppo_speed_up is not None and summary.system != "sppo":
        yield Metric(
            name=f"{place}/sppo_speed_up",
            value=summary.sppo_speed_up,
            low=summary.sppo_speed_up_low,
            high=summary.sppo_speed_up_high,
            unit="ratio",
            better="more",
            setting=setting,
        )


def _setting(record: Record) -> str:
    """The work of a step: what a change of the code does not change."""
    workload = record.workload
    model = workload.model
    data = "" if record.text is None else f", data {record.text.sha256[:8]}"
    return (
        f"{model.name} of {model.layers} layers, {workload.sequences_per_step} x "
        f"{length_name(workload.sequence_tokens)} tokens, {record.ranks} ranks, "
        f"{workload.dtype}{data}"
    )
