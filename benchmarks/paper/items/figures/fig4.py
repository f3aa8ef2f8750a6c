"""Fig. 4: activation bytes of each subsequence; equal FLOPs make early ones long."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.paper.items import drawing
from benchmarks.paper.items.item import Item, Point, Table
from benchmarks.paper.items.partition import (
    BYTES_SOURCE,
    CAUSAL,
    COUNTS,
    GB,
    NON_CAUSAL,
    WEIGHTS,
    Piece,
    all_pieces,
)

_LOOKS = {CAUSAL: drawing.OURS, NON_CAUSAL: drawing.WHAT_IF}


def make() -> Item:
    """The item. Raises OSError."""
    known = list(all_pieces())
    ratios = {
        (weights, count): _ratio(_of(known, weights, count))
        for weights in WEIGHTS
        for count in COUNTS
    }
    return Item(
        key="fig4",
        title="Fig. 4: activation bytes by subsequence, llama-65B, 128K",
        compares="shape only: the paper's numbers stand in fig. 5",
        points=[_point(piece) for piece in known],
        agreement=(
            "first over last at N 16: "
            f"{ratios[NON_CAUSAL, 16]:.1f}x non-causal, {ratios[CAUSAL, 16]:.1f}x causal"
        ),
        verdict=_verdict(known, ratios),
        notes=["Sizes are 36 h bytes a token and layer, the paper's convention for this figure."],
        tables=[
            Table(
                heading="First over last subsequence",
                titles=["weights", *(f"N {count}" for count in COUNTS)],
                rows=[
                    [weights, *(f"{ratios[weights, count]:.2f}x" for count in COUNTS)]
                    for weights in WEIGHTS
                ],
                align="l" + "r" * len(COUNTS),
            )
        ],
        draw=lambda figure: _draw(figure, known),
        inches=(10.0, 4.2),
        drawn_source="computed · FLOPs-balanced partition, 36 h bytes a token and layer",
    )


def _verdict(known: Sequence[Piece], ratios: Mapping[tuple[str, int], float]) -> str:
    """The paper's order: no subsequence is larger than an earlier one."""
    partitions = [_of(known, weights, count) for weights, count in ratios]
    falling = sum(
        all(early.tokens >= late.tokens for early, late in itertools.pairwise(pieces))
        for pieces in partitions
    )
    causal = max(ratios[CAUSAL, count] for count in COUNTS)
    non_causal = max(ratios[NON_CAUSAL, count] for count in COUNTS)
    return (
        f"The paper's order, early subsequences the largest, holds in {falling} of "
        f"{len(partitions)} partitions. First and last differ by up to {causal:.1f}x with causal "
        f"weights, by up to {non_causal:.1f}x with the paper's."
    )


def _of(known: Sequence[Piece], weights: str, count: int) -> list[Piece]:
    return [piece for piece in known if (piece.weights, piece.count) == (weights, count)]


def _ratio(pieces: Sequence[Piece]) -> float:
    return pieces[0].tokens / pieces[-1].tokens


def _point(piece: Piece) -> Point:
    return Point(
        series=f"{piece.weights}, N {piece.count}",
        place=f"subsequence {piece.index}",
        quantity="activation bytes of one layer",
        unit="GB",
        value=piece.size_bytes / GB,
        label="computed",
        source=BYTES_SOURCE,
        settings=piece.settings,
    )


def _draw(figure: Any, known: Sequence[Piece]) -> None:
    for axes, count in zip(figure.subplots(1, len(COUNTS), sharey=True), COUNTS, strict=True):
        width = drawing.GROUP_WIDTH / len(WEIGHTS)
        for number, weights in enumerate(WEIGHTS):
            shown = _of(known, weights, count)
            places = [piece.index + (number - 0.5) * width for piece in shown]
            heights = [piece.size_bytes / GB for piece in shown]
            axes.bar(places, heights, 0.9 * width, label=weights, **_LOOKS[weights])
        axes.set_title(f"N {count}")
        axes.set_xlabel("subsequence")
        axes.set_xticks(range(0, count, 1 if count <= 8 else 3))
    figure.axes[0].set_ylabel("activations of one layer, GB")
