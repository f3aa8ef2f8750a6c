"""The paper's fig. 11 as tables of simulated steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.paper.offload_ablation import AblationPoint, VariantResult
from benchmarks.paper.offload_ablation_order import comparisons
from benchmarks.reporting.tables import size_words
from benchmarks.reporting.text_table import Column, number, text_table
from sppo.config.sizes import length_name

COLUMNS: tuple[Column[VariantResult], ...] = (
    ("simulated variant", lambda row: row.variant),
    ("s a step", lambda row: row.status if row.status != "ok" else f"{row.step_seconds:.3f}"),
    ("speed / full offload", lambda row: number(row.speed_over_full_offload, "{:.3f}x")),
    (
        "paper (fig. 11, read off)",
        lambda row: number(row.paper_speed_over_full_offload, "{:.2f}x"),
    ),
    ("compute s", lambda row: number(row.compute_seconds, "{:.3f}")),
    ("bubble share", lambda row: number(row.bubble_share, "{:.1%}")),
    ("exposed copies s", lambda row: number(row.exposed_copy_seconds, "{:.3f}")),
    ("device peak", lambda row: size_words(row.peak_device_bytes)),
    ("host peak", lambda row: size_words(row.host_peak_bytes)),
)


def text(point: AblationPoint) -> str:
    """Header, table and notes of a point."""
    limit, host = size_words(point.device_memory_bytes), size_words(point.host_memory_bytes)
    return "\n".join(
        [
            f"{point.model}, {length_name(point.sequence_tokens)} tokens, {point.ranks} ranks, "
            f"simulated with {point.hardware} ({point.profile_kind} profile)",
            f"- layout: {point.layout}; from {point.layout_from}; rows named further or what if "
            "differ",
            f"- a rank's limits: device {limit if point.device_memory_bytes else 'none'}, "
            f"host {host}",
            "",
            text_table(COLUMNS, point.rows, "l" + "r" * (len(COLUMNS) - 1)),
            "",
            *(f"- {line}" for line in _notes(point)),
        ]
    )


def _notes(point: AblationPoint) -> Iterator[str]:
    for row in point.rows:
        if row.status != "ok":
            yield f"{row.variant}: {row.status}: {row.reason}"
        elif row.layout != point.layout:
            yield f"{row.variant}: {row.layout}"
    yield from map(str, comparisons(point))
    speeds = [
        f"{row.variant} {row.paper_speed_over_megatron:.2f}x"
        for row in point.rows
        if row.paper_speed_over_megatron is not None
    ]
    if speeds:
        yield f"over Megatron, paper (fig. 11, read off): {', '.join(speeds)}; not simulated here"


def as_json(point: AblationPoint) -> dict[str, Any]:
    """A point as JSON values (docs/sweeps.md lists the keys)."""
    order = [asdict(comparison) for comparison in comparisons(point)]
    return {**asdict(point), "order": order, "megatron": "not simulated"}
