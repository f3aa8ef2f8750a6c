"""The drawing of the map: a panel for each kind of hardware, a square for each place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.paper.items import map_words
from benchmarks.paper.map import places
from benchmarks.paper.map.verdict import PlaceVerdict, Winner
from benchmarks.reporting import style

COLUMNS = 2

FACES: Mapping[Winner, Mapping[str, Any]] = {
    "SPPO alone": {"facecolor": style.look("sppo").colour},
    "SPPO": {"facecolor": style.look("sppo").colour, "alpha": 0.55},
    "open": {"facecolor": style.BAND, "hatch": "..."},
    "a peer": {"facecolor": style.look("native").colour, "alpha": 0.45},
    "SPPO cannot": {"facecolor": style.look("native").colour},
    "nobody": {"facecolor": style.FAILED, "alpha": 0.35},
    "not planned": {"facecolor": style.PAPER, "edgecolor": style.FAINT, "linestyle": ":"},
}

NAMES: Mapping[Winner, str] = {
    "SPPO alone": "only SPPO runs",
    "SPPO": "SPPO is faster than every peer's bound",
    "open": "open: a bound is below SPPO's step",
    "a peer": "an emulated peer is faster",
    "SPPO cannot": "SPPO cannot run, a peer may",
    "nobody": "nobody runs",
    "not planned": "not planned yet",
}


def draw(figure: Any, maps: Mapping[str, Sequence[PlaceVerdict]]) -> None:
    """A panel for each kind of hardware."""
    lines = math.ceil(len(maps) / COLUMNS)
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (name, rows) in zip(panels, maps.items(), strict=False):
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

    label = NAMES[row.winner]
    square = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, label=label, **FACES[row.winner])
    axes.add_patch(square)
    emulated = row.best_peer is not None and row.best_peer.label == "emulated"
    axes.annotate(
        "\n".join(filter(None, (f"{row.place.gpus:,} GPUs", map_words.named_ratio(row)))),
        (x, y),
        ha="center",
        va="center",
        fontsize=style.NUMBER_SIZE,
        fontweight="bold" if emulated else "normal",
        color=style.INK,
        bbox={"facecolor": style.PAPER, "linewidth": 0, "pad": 0.6},
    )
