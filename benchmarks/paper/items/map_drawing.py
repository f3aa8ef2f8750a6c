"""The drawing of the map: a panel a kind of hardware, a square a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.paper.map import places
from benchmarks.paper.map.verdict import PlaceVerdict, Winner
from benchmarks.reporting import style

LEFT_OUT = "h200-141g"
"""Looks as H100 does, and is left to the table."""

FACES: Mapping[Winner, Mapping[str, Any]] = {
    "SPPO alone": {"facecolor": style.look("sppo").colour},
    "SPPO": {"facecolor": style.look("sppo").colour, "alpha": 0.55},
    "open": {"facecolor": style.BAND, "hatch": "..."},
    "a peer": {"facecolor": style.look("native").colour, "alpha": 0.45},
    "SPPO cannot": {"facecolor": style.look("native").colour},
    "nobody": {"facecolor": style.FAILED, "alpha": 0.35},
    "not planned": {"facecolor": style.PAPER},
}

NAMES: Mapping[Winner, str] = {
    "SPPO alone": "only SPPO runs",
    "SPPO": "SPPO is faster than every peer's step or bound",
    "open": "open: a bound is below SPPO's step",
    "a peer": "an emulated peer is faster",
    "SPPO cannot": "SPPO cannot run, a peer may",
    "nobody": "nobody runs",
}


def draw(figure: Any, maps: Mapping[str, Sequence[PlaceVerdict]]) -> None:
    """A panel for each kind of hardware with places."""
    shown = {name: rows for name, rows in maps.items() if rows and name != LEFT_OUT}
    panels = figure.subplots(2, 2, squeeze=False).flatten()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, (name, rows) in zip(panels, shown.items(), strict=False):
        _panel(axes, name, rows)


def _panel(axes: Any, name: str, rows: Sequence[PlaceVerdict]) -> None:
    shares = [f"{share}K" for share in reversed(places.TOKENS_PER_GPU)]
    seqs = list(dict.fromkeys(row.place.seq for row in rows))
    for row in rows:
        x, y = shares.index(places.tokens_per_gpu(row.place)), seqs.index(row.place.seq)
        _square(axes, x, y, row)
    axes.set_xlim(-0.5, len(shares) - 0.5)
    axes.set_ylim(-0.5, len(seqs) - 0.5)
    axes.set_xticks(range(len(shares)), shares)
    axes.set_yticks(range(len(seqs)), seqs)
    axes.set_xlabel("tokens a GPU")
    axes.set_title(name)
    axes.grid(visible=False)


def _square(axes: Any, x: int, y: int, row: PlaceVerdict) -> None:
    from matplotlib.patches import Rectangle

    label = NAMES.get(row.winner)
    square = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, label=label, **FACES[row.winner])
    axes.add_patch(square)
    emulated = row.best_peer is not None and row.best_peer.label == "emulated"
    axes.annotate(
        f"{row.place.gpus:,} GPUs{_ratio_words(row, emulated=emulated)}",
        (x, y),
        ha="center",
        va="center",
        fontsize=style.NUMBER_SIZE,
        fontweight="bold" if emulated else "normal",
        color=style.INK,
        bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.6},
    )


def _ratio_words(row: PlaceVerdict, *, emulated: bool) -> str:
    """A line with the ratio and the best peer; "" without a ratio."""
    if row.ratio is None or row.best_peer is None:
        return ""
    return f"\n{'' if emulated else '≥ '}{row.ratio:.2f}x {row.best_peer.system}"
