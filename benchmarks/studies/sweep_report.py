"""A sweep as a table, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.reporting.tables import Summary, size_words, spread_words
from benchmarks.reporting.text_table import NO_NUMBER, Column, text_table
from benchmarks.studies.sweep import SCHEMA, Quantity, SweepPoint
from sppo.config.sizes import length_name, limit_words
from sppo.config.workload import Workload

NAMES: dict[Quantity, str] = {
    "device-memory": "device memory a rank",
    "sequences-per-step": "sequences a step",
}


def value_words(quantity: Quantity, point: SweepPoint) -> str:
    """A value for people: "136.0 MiB", "no limit", "4"."""
    if quantity == "sequences-per-step":
        return str(point.sequences_per_step)
    return limit_words(point.device_memory_bytes)


def table(quantity: Quantity, points: Sequence[SweepPoint]) -> str:
    """A row a value, with step time (or status), settings and peak of each system."""
    systems = [row.row for row in points[0].rows]
    columns: list[Column[SweepPoint]] = [
        (NAMES[quantity], lambda point: value_words(quantity, point))
    ]
    for number, system in enumerate(systems):
        columns += _system_columns(system, number)
    columns.append(("SPPO faster than the best peer by", lambda point: _speed_up(point.rows)))
    return text_table(columns, points, "l" + "rlr" * len(systems) + "r")


def _system_columns(system: str, number: int) -> tuple[Column[SweepPoint], ...]:
    def step(point: SweepPoint) -> str:
        row = point.rows[number]
        return spread_words(row.step_seconds) if row.status == "ok" else row.status

    return (
        (f"{system}: step s, median [quartiles]", step),
        ("settings", lambda point: point.rows[number].settings or NO_NUMBER),
        ("peak device", lambda point: size_words(point.rows[number].tracked_peak_bytes)),
    )


def _speed_up(rows: Sequence[Summary]) -> str:
    """SPPO's speed over the fastest peer; no number where a peer's times are unsettled."""
    if is_unsettled(rows):
        return "unsettled"
    best = best_peer(rows)
    if best is not None:
        return tables.ratio_words(best)
    peers = [row for row in rows if row.system != "sppo"]
    sppo_ran = any(row.system == "sppo" and row.status == "ok" for row in rows)
    return "only SPPO ran" if peers and sppo_ran else NO_NUMBER


def is_unsettled(rows: Sequence[Summary]) -> bool:
    """Whether times of a row are too noisy for a ratio."""
    return any(row.timing_reason and row.sppo_speed_up is None for row in rows)


def best_peer(rows: Sequence[Summary]) -> Summary | None:
    """The peer over which SPPO's claimed ratio is the least; None where no ratio is claimed."""
    peers = [row for row in rows if row.system != "sppo" and row.sppo_speed_up is not None]
    if is_unsettled(rows):
        return None
    return min(peers, key=lambda row: row.sppo_speed_up or 0.0, default=None)


def document(
    workload: Workload, quantity: Quantity, points: Sequence[SweepPoint], record: Record
) -> str:
    """Heading, table, and the source of each setting or the reason for a missing number.

    record: any of a measured row, for the origin.
    """
    length = length_name(workload.sequence_tokens)
    lines = [
        f"{workload.name} by {NAMES[quantity]}: {workload.model.name}, sequences of {length} "
        f"tokens, {workload.cluster.ranks} ranks ({workload.cluster.hardware})",
        "",
        f"- measured on {provenance.measured_on(record)}",
    ]
    if quantity == "sequences-per-step":
        lines.append(f"- device memory: {limit_words(points[0].device_memory_bytes)}")
    lines += ["", table(quantity, points), ""]
    for point in points:
        value = value_words(quantity, point)
        for row in point.rows:
            if row.status != "ok":
                lines.append(f"- {value}, {row.row}: {row.status}: {row.reason or 'no reason'}")
            if row.timing_reason:
                lines.append(f"- {value}, {row.row}: {row.timing}: {row.timing_reason}")
            if row.grid:
                lines.append(f"- {value}, {row.row}, settings: {row.grid}")
    lines.append("- peak device: tracked bytes of the accounted step, largest rank")
    return "\n".join(lines)


def as_json(
    workload: Workload, quantity: Quantity, points: Sequence[SweepPoint], record: Record
) -> dict[str, Any]:
    """The sweep as JSON values."""
    return {
        "schema": SCHEMA,
        "workload": workload.name,
        "quantity": quantity,
        **provenance.origin(record),
        "values": [asdict(point) for point in points],
    }


def csv_text(points: Sequence[SweepPoint]) -> str:
    """A line for every value and system, with a header line."""
    rows = [
        {
            "device_memory_bytes": point.device_memory_bytes,
            "sequences_per_step": point.sequences_per_step,
            **tables.flat(row),
        }
        for point in points
        for row in point.rows
    ]
    return tables.csv_of(rows)
