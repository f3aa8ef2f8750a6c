"""Table, CSV and JSON of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.reporting.tables import size_words
from benchmarks.reporting.text_table import NO_NUMBER, Column, interval, percent, text_table
from benchmarks.studies import ablation as ablations
from benchmarks.studies.ablation import PolicyResult
from benchmarks.studies.publish import first_measured


def _relative_words(row: PolicyResult) -> str:
    low, high = row.relative_time_low, row.relative_time_high
    return interval(row.relative_time, low, high, form="{:.2f}")


COLUMNS: tuple[Column[PolicyResult], ...] = (
    ("policy", lambda row: row.policy),
    ("status", lambda row: row.status),
    ("timing", lambda row: row.timing or NO_NUMBER),
    ("step s, median [quartiles]", lambda row: tables.spread_words(row.step_seconds)),
    ("time / auto [interval]", _relative_words),
    ("peak device", lambda row: size_words(row.peak_device_bytes)),
    ("predicted", lambda row: size_words(row.predicted_peak_bytes)),
    ("offloaded", lambda row: size_words(row.offloaded_bytes)),
    ("recomputed", lambda row: size_words(row.recomputed_bytes)),
    ("host", lambda row: size_words(row.host_peak_bytes)),
    ("MFU (causal)", lambda row: percent(row.mfu_causal)),
)


def text(done: Sequence[Record], results: Sequence[PolicyResult], policy: str) -> str:
    """Header, table and notes. policy: whose plan has the layout; "" if none has a plan."""
    title, *facts = tables.header(done)
    layout = f"that of {policy}'s plan" if policy else "none, as no policy has a plan"
    facts.append(f"layout of all rows: {layout}")
    notes = [f"{row.policy}: {row.status}: {row.reason}" for row in results if row.status != "ok"]
    notes += [
        f"{row.policy}: no ratio is claimed: {row.relative_time_reason}"
        for row in results
        if row.relative_time_reason
    ]
    notes.append(
        "step, peak device and host: measured; predicted, offloaded (one way) and recomputed: "
        "planned, bytes of one step, offloaded and recomputed over all ranks"
    )
    table = text_table(COLUMNS, results, "lll" + "r" * (len(COLUMNS) - 3))
    lines = [title, "", *(f"- {fact}" for fact in facts), "", table, ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


def as_json(done: Sequence[Record], results: Sequence[PolicyResult], policy: str) -> dict[str, Any]:
    """The ablation as JSON values."""
    first = first_measured(done)
    return {
        "schema": ablations.SCHEMA,
        "workload": first.workload.name,
        "device_memory_bytes": first.device_memory_bytes,
        "layout_of": policy,
        **provenance.origin(first),
        "policies": [asdict(result) for result in results],
    }


def csv_text(results: Sequence[PolicyResult]) -> str:
    """A line a policy, with a header line."""
    return tables.csv_of([tables.flat(result) for result in results])
