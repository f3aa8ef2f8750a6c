"""A sweep as a table, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.reporting.tables import Summary
from benchmarks.reporting.text_table import NO_NUMBER
from benchmarks.studies.sweep import SCHEMA, Measured, Quantity
from sppo.config.sizes import format_bytes, length_name
from sppo.config.workload import Workload

NAMES: dict[Quantity, str] = {
    "device-memory": "device memory a rank",
    "sequences-per-step": "sequences a step",
}


def value_words(quantity: Quantity, measured: Measured) -> str:
    """A value for people: "136.0 MiB", "no limit", "4"."""
    if quantity == "sequences-per-step":
        return str(measured.sequences_per_step)
    limit_bytes = measured.device_memory_bytes
    return "no limit" if limit_bytes is None else format_bytes(limit_bytes)


def table(quantity: Quantity, found: Sequence[Measured]) -> str:
    """A row a value; of each system step time (or how it ended), settings and peak."""
    from tabulate import tabulate

    systems = [row.row for row in found[0].rows]
    columns = [
        title
        for system in systems
        for title in (f"{system}: step s, median [quartiles]", "settings", "peak device")
    ]
    lines = [
        [
            value_words(quantity, measured),
            *(cell for row in measured.rows for cell in _cells(row)),
            _against_the_best(measured.rows),
        ]
        for measured in found
    ]
    headers = [NAMES[quantity], *columns, "SPPO faster than the best peer by"]
    align = ["left", *(["right", "left", "right"] * len(systems)), "right"]
    return str(
        tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True, colalign=align)
    )


def _cells(row: Summary) -> tuple[str, str, str]:
    step = tables.spread_words(row.step_seconds) if row.status == "ok" else row.status
    return step, row.settings or NO_NUMBER, tables.size_words(row.tracked_peak_bytes)


def _against_the_best(rows: Sequence[Summary]) -> str:
    peers = [row for row in rows if row.system != "sppo"]
    ratios = [row.sppo_speed_up for row in peers if row.sppo_speed_up is not None]
    if ratios:
        return f"{min(ratios):.2f}x"
    alone = any(row.system == "sppo" and row.status == "ok" for row in rows)
    return "only SPPO ran" if peers and alone else NO_NUMBER


def document(
    workload: Workload, quantity: Quantity, found: Sequence[Measured], record: Record
) -> str:
    """Heading, table, and where each setting comes from or why there is no number."""
    length = length_name(workload.sequence_tokens)
    lines = [
        f"{workload.name} by {NAMES[quantity]}: {workload.model.name}, sequences of {length} "
        f"tokens, {workload.cluster.ranks} ranks ({workload.cluster.hardware})",
        "",
        f"- measured on {provenance.machine(record)}, {provenance.commit(record)}, "
        f"{record.started[:10]}",
    ]
    if quantity == "sequences-per-step":
        limit = found[0].device_memory_bytes
        lines.append(f"- device memory: {'no limit' if limit is None else format_bytes(limit)}")
    lines += ["", table(quantity, found), ""]
    for measured in found:
        value = value_words(quantity, measured)
        for row in measured.rows:
            if row.status != "ok":
                lines.append(f"- {value}, {row.row}: {row.status}: {row.reason or 'no reason'}")
            if row.grid:
                lines.append(f"- {value}, {row.row}, settings: {row.grid}")
    lines.append("- peak device: tracked bytes of the accounted step, largest rank")
    return "\n".join(lines)


def told(
    workload: Workload, quantity: Quantity, found: Sequence[Measured], record: Record
) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "schema": SCHEMA,
        "workload": workload.name,
        "quantity": quantity,
        **provenance.origin(record),
        "values": [asdict(measured) for measured in found],
    }


def figure_words(
    workload: Workload, quantity: Quantity, found: Sequence[Measured], record: Record
) -> tuple[str, str]:
    """Title and caption of the figure."""
    title = f"{workload.name}: {length_name(workload.sequence_tokens)} tokens, {NAMES[quantity]}"
    caption = f"{provenance.machine(record)} · {provenance.commit(record)} · {record.started[:10]}"
    if quantity == "sequences-per-step":
        limit = found[0].device_memory_bytes
        title += ", no memory limit" if limit is None else f", {format_bytes(limit)} a rank"
    return title, caption


def csv_text(found: Sequence[Measured]) -> str:
    """A line for every value and system, with a header line."""
    rows = [
        {
            "device_memory_bytes": measured.device_memory_bytes,
            "sequences_per_step": measured.sequences_per_step,
            **tables.flat(row),
        }
        for measured in found
        for row in measured.rows
    ]
    return tables.csv_of(rows)
