"""The paper's fig. 11 as tables of simulated steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.paper import offload_ablation_order
from benchmarks.paper.offload_ablation import Point, Row
from benchmarks.reporting.tables import NO_NUMBER, size_words
from sppo.config.sizes import length_name

COLUMNS = (
    "simulated variant",
    "s a step",
    "speed / full offload",
    "paper (fig. 11, read off)",
    "compute s",
    "bubble share",
    "exposed copies s",
    "device peak",
    "host peak",
)


def text(one: Point) -> str:
    """Header, table and notes of a point."""
    from tabulate import tabulate

    limit, host = size_words(one.device_memory_bytes), size_words(one.host_memory_bytes)
    head = [
        f"{one.model}, {length_name(one.sequence_tokens)} tokens, {one.ranks} ranks, simulated "
        f"with {one.hardware} ({one.profile_kind} profile)",
        f"- layout: {one.layout}; from {one.layout_from}; rows named further or what if differ",
        f"- a rank's limits: device {limit if one.device_memory_bytes else 'none'}, host {host}",
    ]
    table = tabulate(
        [_cells(row) for row in one.rows],
        headers=COLUMNS,
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *("right",) * (len(COLUMNS) - 1)),
    )
    return "\n".join([*head, "", table, "", *(f"- {line}" for line in _notes(one))])


def _cells(row: Row) -> list[str]:
    reported_speed = _number(row.paper_speed_over_full_offload, "{:.2f}x")
    if row.step_seconds is None:
        return [row.variant, row.status, NO_NUMBER, reported_speed, *[NO_NUMBER] * 5]
    return [
        row.variant,
        f"{row.step_seconds:.3f}",
        _number(row.speed_over_full_offload, "{:.3f}x"),
        reported_speed,
        _number(row.compute_seconds, "{:.3f}"),
        _number(row.bubble_share, "{:.1%}"),
        _number(row.exposed_copy_seconds, "{:.3f}"),
        size_words(row.peak_device_bytes),
        size_words(row.host_peak_bytes),
    ]


def _number(value: float | None, form: str) -> str:
    return NO_NUMBER if value is None else form.format(value)


def _notes(one: Point) -> Iterator[str]:
    for row in one.rows:
        if row.status != "ok":
            yield f"{row.variant}: {row.status}: {row.reason}"
        elif row.layout != one.layout:
            yield f"{row.variant}: {row.layout}"
    for comparison in offload_ablation_order.comparisons(one):
        yield offload_ablation_order.words(comparison)
    over = {row.variant: row.paper_speed_over_megatron for row in one.rows}
    known = [f"{name} {speed:.2f}x" for name, speed in over.items() if speed is not None]
    if known:
        yield f"over Megatron, paper (fig. 11, read off): {', '.join(known)}; not simulated here"


def told(one: Point) -> dict[str, Any]:
    """A point for programs."""
    order = [asdict(comparison) for comparison in offload_ablation_order.comparisons(one)]
    return {**asdict(one), "order": order, "megatron": "not simulated"}
