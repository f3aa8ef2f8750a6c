"""The paper's fig. 11 as tables of simulated steps, and whether the order is the paper's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.paper.offload_ablation import (
    ADAPTIVE,
    FULL,
    MSP,
    SPACIOUS_MSP,
    AblationPoint,
    VariantResult,
    ratio,
)
from benchmarks.reporting.tables import size_words
from benchmarks.reporting.text_table import Column, number, text_table
from sppo.config.sizes import length_name

TIE = 0.005
"""Two variants count as equal below this share of a step: a cost model is no finer."""

AS_IN_THE_PAPER = "faster, as in the paper"
EQUAL = f"equal within {TIE:.1%}, not as in the paper"
OPPOSITE = "slower, not as in the paper"
INFEASIBLE = "infeasible, so no order"

COLUMNS: tuple[Column[VariantResult], ...] = (
    ("simulated variant", lambda row: row.variant),
    ("s a step", lambda row: row.status if row.status != "ok" else f"{row.step_seconds:.3f}"),
    ("speed / full offload", lambda row: number(row.speed_over_full_offload, "{:.3f}x")),
    ("paper (fig. 11, read off)", lambda row: number(row.paper_speed_over_full_offload, "{:.2f}x")),
    ("compute s", lambda row: number(row.compute_seconds, "{:.3f}")),
    ("bubble share", lambda row: number(row.bubble_share, "{:.1%}")),
    ("exposed copies s", lambda row: number(row.exposed_copy_seconds, "{:.3f}")),
    ("device peak", lambda row: size_words(row.peak_device_bytes)),
    ("host peak", lambda row: size_words(row.host_peak_bytes)),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One step of the ablation, as speeds (above 1: `variant` is faster than `than`).

    what_if_speed: with device memory to spare, if the variant does not fit.
    """

    variant: str
    than: str
    simulated_speed: float | None
    what_if_speed: float | None
    paper_speed: float | None
    verdict: str

    def __str__(self) -> str:
        """ "adaptive offload over full offload: simulated 1.003x, paper 1.35x: ..." """
        speeds = (
            ("simulated {:.3f}x", self.simulated_speed),
            ("simulated with device memory to spare {:.3f}x", self.what_if_speed),
            ("paper {:.2f}x", self.paper_speed),
        )
        known = ", ".join(form.format(speed) for form, speed in speeds if speed is not None)
        head = f"{self.variant} over {self.than}"
        return ": ".join(part for part in (head, known, self.verdict) if part)


def comparisons(point: AblationPoint) -> list[Comparison]:
    """Adaptive over full offload, and MSP over adaptive. The paper finds both faster (fig. 11)."""
    seconds = {row.variant: row.step_seconds for row in point.rows}
    paper = {row.variant: row.paper_speed_over_megatron for row in point.rows}
    results = []
    for faster, slower, what_if in ((ADAPTIVE, FULL, None), (MSP, ADAPTIVE, SPACIOUS_MSP)):
        speed = ratio(seconds[slower.name], seconds[faster.name])
        what_if_seconds = None if what_if is None else seconds.get(what_if.name)
        results.append(
            Comparison(
                variant=faster.name,
                than=slower.name,
                simulated_speed=speed,
                what_if_speed=ratio(seconds[slower.name], what_if_seconds),
                paper_speed=ratio(paper[faster.name], paper[slower.name]),
                verdict=_verdict(speed),
            )
        )
    return results


def _verdict(speed: float | None) -> str:
    if speed is None:
        return INFEASIBLE
    if abs(speed - 1) < TIE:
        return EQUAL
    return AS_IN_THE_PAPER if speed > 1 else OPPOSITE


def text(point: AblationPoint) -> str:
    """Header, table and notes of a point."""
    workload, profile = point.workload, point.profile
    limit = workload.device_memory_bytes
    return "\n".join(
        [
            f"{workload.model.name}, {length_name(workload.sequence_tokens)} tokens, "
            f"{workload.cluster.ranks} ranks, simulated with {profile.name} ({profile.kind} "
            "profile)",
            f"- layout: {point.layout}; from {point.layout_from}; rows named further or what if "
            "differ",
            f"- a rank's limits: device {size_words(limit) if limit else 'none'}, "
            f"host {size_words(workload.host_memory_bytes)}",
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
    workload, profile = point.workload, point.profile
    return {
        "workload": workload.name,
        "model": workload.model.name,
        "sequence_tokens": workload.sequence_tokens,
        "ranks": workload.cluster.ranks,
        "hardware": profile.name,
        "profile_kind": profile.kind,
        "device_memory_bytes": workload.device_memory_bytes,
        "host_memory_bytes": workload.host_memory_bytes,
        "layout": point.layout,
        "layout_from": point.layout_from,
        "rows": [asdict(row) for row in point.rows],
        "order": [asdict(comparison) for comparison in comparisons(point)],
        "megatron": "not simulated",
    }
