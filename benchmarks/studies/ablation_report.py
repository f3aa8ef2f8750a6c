"""Table, CSV and JSON of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.reporting.text_table import NO_NUMBER
from benchmarks.studies import ablation as ablations
from benchmarks.studies.ablation import PolicyResult

COLUMNS = (
    "policy",
    "status",
    "step s, median [quartiles]",
    "time / auto",
    "peak device",
    "predicted",
    "offloaded",
    "recomputed",
    "host",
    "MFU (causal)",
)


def table(results: Sequence[PolicyResult]) -> str:
    """GitHub's Markdown."""
    from tabulate import tabulate

    return str(
        tabulate(
            [_cells(result) for result in results],
            headers=COLUMNS,
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", "left", *("right",) * (len(COLUMNS) - 2)),
        )
    )


def _cells(result: PolicyResult) -> list[str]:
    relative, mfu = result.relative_time, result.mfu_causal
    return [
        result.policy,
        result.status,
        tables.spread_words(result.step_seconds),
        NO_NUMBER if relative is None else f"{relative:.2f}",
        tables.size_words(result.peak_device_bytes),
        tables.size_words(result.predicted_peak_bytes),
        tables.size_words(result.offloaded_bytes),
        tables.size_words(result.recomputed_bytes),
        tables.size_words(result.host_peak_bytes),
        NO_NUMBER if mfu is None else f"{100 * mfu:.1f} %",
    ]


def text(done: Sequence[Record], results: Sequence[PolicyResult], whose: str) -> str:
    """Header, table and notes."""
    layout = f"that of {whose}'s plan" if whose else "none, as no policy has a plan"
    lines = [*tables.header(done), f"layout of all rows: {layout}"]
    lines = [f"- {line}" if number else line for number, line in enumerate(lines)]
    notes = [
        f"- {result.policy}: {result.status}: {result.reason}"
        for result in results
        if result.status != "ok"
    ]
    notes += [
        "- step, peak device and host: measured; predicted, offloaded (one way) and recomputed: "
        "planned, bytes of one step, offloaded and recomputed over all ranks",
    ]
    return "\n".join([lines[0], "", *lines[1:], "", table(results), "", *notes])


def told_of(done: Sequence[Record], results: Sequence[PolicyResult], whose: str) -> dict[str, Any]:
    """Everything for programs."""
    first = next((record for record in done if record.system != "reference"), done[0])
    return {
        "schema": ablations.SCHEMA,
        "workload": first.workload.name,
        "device_memory_bytes": first.device_memory_bytes,
        "layout_of": whose,
        **provenance.origin(first),
        "policies": [asdict(result) for result in results],
    }


def csv_text(results: Sequence[PolicyResult]) -> str:
    """A line a policy, with a header line."""
    return tables.csv_of([ablations.flat(result) for result in results])
