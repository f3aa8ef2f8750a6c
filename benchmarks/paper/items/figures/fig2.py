"""Fig. 2: compute grows faster than the link to the host, by datasheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper import reported
from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Comparison, Item, Point

COMPUTE, LINK = "dense bf16 rate", "PCIe rate of one lane"
DATASHEET, PAPERS = "datasheet", "the paper"

SPARSE_H100 = 1979.0
"""TFLOP/s of H100 SXM with sparsity (NVIDIA H100 datasheet)."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A number as its maker prints it."""

    place: str
    value: float
    source: str


GPUS = (
    Printed(place="A100", value=312.0, source="NVIDIA A100 datasheet, BFLOAT16 Tensor Core"),
    Printed(place="H100 SXM", value=989.0, source="NVIDIA H100 datasheet: 1,979 with sparsity"),
    Printed(place="H100 NVL", value=835.0, source="NVIDIA H100 datasheet: 1,671 with sparsity"),
    Printed(place="B200", value=2250.0, source="NVIDIA DGX B200 datasheet: 4,500 with sparsity"),
)
"""TFLOP/s without sparsity."""

LINKS = (
    Printed(place="gen3", value=8.0, source="PCI-SIG, PCI Express 3.0"),
    Printed(place="gen4", value=16.0, source="PCI-SIG, PCI Express 4.0"),
    Printed(place="gen5", value=32.0, source="PCI-SIG, PCI Express 5.0"),
)
"""GT/s."""


def make() -> Item:
    """The item. Raises OSError."""
    papers = reported.numbers("fig2")
    compute = [_comparison(gpu, papers["bf16_tflops"], COMPUTE, "TFLOP/s") for gpu in GPUS]
    links = [_comparison(link, papers["pcie_gt_per_s"], LINK, "GT/s") for link in LINKS]
    comparisons = [*compute, *links]
    equal = sum(row.difference == 0 for row in comparisons)
    points = [
        *_points(GPUS, papers["bf16_tflops"], COMPUTE, "TFLOP/s"),
        *_points(LINKS, papers["pcie_gt_per_s"], LINK, "GT/s"),
    ]
    return Item(
        key="fig2",
        title="Fig. 2: compute and host link by generation",
        compares="datasheet rates of four GPUs and three PCIe generations",
        points=points,
        comparisons=comparisons,
        agreement=f"{equal} of {len(comparisons)} rates equal",
        verdict=_verdict(comparisons),
        notes=["Rates are without sparsity. A sixteen-lane link has 16 times the rate of a lane."],
        draw=lambda figure: _draw(figure, points),
        inches=(10.0, 4.2),
        drawn_source="datasheets of NVIDIA, specifications of PCI-SIG · beside the paper's fig. 2",
    )


def _verdict(comparisons: Sequence[Comparison]) -> str:
    """Growth from A100 to B200 beside that from PCIe gen4 to gen5, here and in the paper."""
    gpus, links = comparisons[: len(GPUS)], comparisons[len(GPUS) :]
    compute = _growth(gpus[0], gpus[-1])
    link = _growth(links[1], links[-1])
    trends = [compute[0] > link[0], compute[1] > link[1]]
    differing = [row.what.partition(":")[0] for row in comparisons if row.difference]
    return (
        f"The trend {'agrees' if trends[0] == trends[1] else 'differs'}: from A100 to B200 compute "
        f"grows {compute[0]:.1f}x, and from PCIe gen4 to gen5 the link grows {link[0]:.0f}x. "
        f"The paper has other rates for: {', '.join(differing) or 'none'}."
    )


def _growth(first: Comparison, last: Comparison) -> tuple[float, float]:
    """Ours and the paper's."""
    assert first.ours is not None
    assert last.ours is not None
    return last.ours / first.ours, last.paper / first.paper


def _comparison(printed: Printed, papers: dict[str, float], quantity: str, unit: str) -> Comparison:
    paper = papers[printed.place]
    cause = "" if paper == printed.value else "the paper's bar has another number"
    if paper == SPARSE_H100:
        cause = f"{SPARSE_H100:,.0f} is the rate of H100 SXM with sparsity"
    return Comparison(
        what=f"{printed.place}: {quantity}",
        ours=printed.value,
        ours_label="datasheet",
        paper=paper,
        form="{:,.0f} " + unit,
        cause=cause,
    )


def _points(
    rows: Sequence[Printed], papers: dict[str, float], quantity: str, unit: str
) -> list[Point]:
    ours = [
        Point(
            series=DATASHEET,
            place=row.place,
            quantity=quantity,
            unit=unit,
            value=row.value,
            label="datasheet",
            source=row.source,
        )
        for row in rows
    ]
    theirs = [
        Point(
            series=PAPERS,
            place=row.place,
            quantity=quantity,
            unit=unit,
            value=papers[row.place],
            label="paper",
            source="arXiv 2503.10377, fig. 2, read off",
        )
        for row in rows
    ]
    return [*ours, *theirs]


def _draw(figure: Any, points: Sequence[Point]) -> None:
    looks = {DATASHEET: drawing.OURS, PAPERS: drawing.PAPERS}
    for axes, quantity in zip(figure.subplots(1, 2), (COMPUTE, LINK), strict=True):
        shown = [point for point in points if point.quantity == quantity]
        drawing.grouped_bars(axes, shown, looks, form="{:,.0f}")
        axes.set_title(quantity)
        axes.set_ylabel(shown[0].unit)
