"""Fig. 9: bytes of one layer's saved tensors, by the block's description, in units of b s h."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Comparison, Item, Point, Table, largest_difference
from benchmarks.reporting import style
from sppo.config.models import MODELS
from sppo.plan.blocks import block_of

MODEL = "gpt-7b"
ELEMENT_BYTES = 2

GROUPS = {
    "norm's input": ("block.input",),
    "Q": ("attention.query",),
    "K": ("attention.key",),
    "V": ("attention.value",),
    "attention block": (
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.output",
        "attention.logsumexp",
    ),
    "behind the attention": (
        "block.middle",
        "norm2.statistics",
        "norm2.output",
        "mlp.up",
        "mlp.activation",
    ),
}
"""The parts that the paper's figure names, as our saved tensors."""

PAPERS = {
    "norm's input": 2.0,
    "Q": 2.0,
    "K": 2.0,
    "V": 2.0,
    "attention block": 8.0,
    "behind the attention": 22.0,
}
"""Bytes over b s h in the paper's figure (bfloat16)."""

SUMMED = ("norm's input", "attention block", "behind the attention")

WITHIN = 0.05
"""Relative: a part that is nearer to the paper's agrees."""

OURS, THEIRS = "saved tensors here", "the paper"


def tensor_units() -> dict[str, float]:
    """Bytes of each saved tensor of a layer, and of K and V, over b s h."""
    model = MODELS[MODEL]
    block = block_of(model)
    units = {
        name: tensor.bytes(1, ELEMENT_BYTES) / model.hidden
        for name, tensor in block.saved_tensors_by_name.items()
    }
    units |= {state.name: state.elements * ELEMENT_BYTES / model.hidden for state in block.state}
    return units


def make() -> Item:
    """The item."""
    units = tensor_units()
    comparisons = list(_comparisons(units))
    total, papers = sum(units.values()), sum(PAPERS[name] for name in SUMMED)
    difference = largest_difference(comparisons) or 0.0
    return Item(
        key="fig9",
        title=f"Fig. 9: bytes of one layer's saved tensors, {MODEL}, bfloat16",
        compares="bytes of the parts of a layer over b s h",
        points=[*_points(units), *_paper_points()],
        comparisons=[
            *comparisons,
            Comparison(
                what="whole layer",
                ours=total,
                ours_label="computed",
                paper=papers,
                form="{:.2f} bsh",
                cause=f"statistics and log-sum-exp in float32: {_statistics(units):.2f} bsh",
            ),
        ],
        agreement=f"whole layer {total / papers - 1:+.1%}, parts at most {difference:+.1%}",
        verdict=_verdict(comparisons, total / papers - 1),
        notes=[
            "The block's description is compared with autograd's saved tensors to the byte by a "
            "test (`tests/numerics`).",
            "K and V are the state that later subsequences read. All other tensors may travel.",
            "Elsewhere the paper treats 36 bsh as what may be offloaded. Its parts sum to 32.",
        ],
        tables=[_table(units)],
        draw=lambda figure: _draw(figure, units),
        inches=(9.0, 4.4),
        drawn_source="computed (the block's description)",
    )


def _verdict(parts: Sequence[Comparison], whole: float) -> str:
    differing = [part for part in parts if abs(part.difference or 0.0) > WITHIN]
    words = "; ".join(f"{part.what} ({part.difference:+.1%}, {part.cause})" for part in differing)
    return (
        f"The whole layer {'agrees' if abs(whole) <= WITHIN else 'differs'} ({whole:+.1%}). "
        f"Parts that differ by more than {100 * WITHIN:g} %: {words or 'none'}."
    )


def _statistics(units: dict[str, float]) -> float:
    names = ("norm1.statistics", "norm2.statistics", "attention.logsumexp")
    return sum(units[name] for name in names)


def _comparisons(units: dict[str, float]) -> Iterator[Comparison]:
    for name, members in GROUPS.items():
        ours = sum(units[member] for member in members)
        cause = ""
        if name == "behind the attention":
            cause = f"norm1.output, {units['norm1.output']:.0f} bsh, counts before the attention"
        elif abs(ours - PAPERS[name]) > 1e-9:
            cause = f"log-sum-exp in float32: {units['attention.logsumexp']:.3f} bsh"
        yield Comparison(
            what=name,
            ours=ours,
            ours_label="computed",
            paper=PAPERS[name],
            form="{:.2f} bsh",
            cause=cause,
        )


def _points(units: dict[str, float]) -> list[Point]:
    return [
        Point(
            series=OURS,
            place=name,
            quantity="bytes of one layer over b s h",
            unit="bsh",
            value=value,
            label="computed",
            source="sppo/plan/blocks/attention.py",
            settings=f"{MODEL}, bfloat16",
        )
        for name, value in units.items()
    ]


def _paper_points() -> list[Point]:
    return [
        Point(
            series=THEIRS,
            place=name,
            quantity="bytes of one layer over b s h",
            unit="bsh",
            value=value,
            label="paper",
            source="arXiv 2503.10377, fig. 9",
        )
        for name, value in PAPERS.items()
    ]


def _table(units: dict[str, float]) -> Table:
    rows = [[name, f"{value:.3f}"] for name, value in units.items()]
    return Table(heading="Every saved tensor", titles=["tensor", "bsh"], rows=rows, align="lr")


def _draw(figure: Any, units: dict[str, float]) -> None:
    axes = figure.add_subplot()
    names: Sequence[str] = list(units)
    states = {state.name for state in block_of(MODELS[MODEL]).state}
    for row, name in enumerate(names):
        look = drawing.WHAT_IF if name in states else drawing.OURS
        label = "state: every later subsequence reads it" if name in states else "saved tensor"
        axes.barh(row, units[name], 0.7, label=label, **look)
        style.words(axes, f"{units[name]:.3g}", (units[name], row), xytext=(5, 0))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, 9)
    axes.set_xlabel("bytes of one layer over b s h")
