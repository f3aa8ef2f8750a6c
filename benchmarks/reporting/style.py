"""One look for every figure: colours, markers, hatches, title, legend, source line, saving.

No other module names a colour. Markers and hatches keep a figure readable in black and white.
Fonts, axes and grid: `figures.mplstyle`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from benchmarks.records.provenance import commit_words, library_words
from sppo.config.sizes import format_bytes

PAPER = "#ffffff"
INK = "#22262b"
FAINT = "#6b7280"
BAND = "#f3f4f6"
FAILED = "#b3261e"

NUMBER_SIZE = 7.5
"""Points, of the words and numbers beside bars and points."""

_SHEET = Path(__file__).with_name("figures.mplstyle")


class Look(NamedTuple):
    """How one system is drawn: its colour, the marker of its line, the hatch of its bars."""

    name: str
    colour: str
    marker: str
    hatch: str


_LOOKS = {
    "sppo": Look("SPPO", "#0b6e4f", "D", ""),
    "megatron": Look("Megatron-Core", "#5b7fa3", "s", "///"),
    "megatron-ours": Look("Megatron-Core, attention saved (ours)", "#8fa9c4", "P", "xx"),
    "deepspeed": Look("DeepSpeed", "#b08d57", "o", "..."),
    "deepspeed-ours": Look("DeepSpeed, hosted (ours)", "#d2ba94", "h", "ooo"),
    "native": Look("PyTorch native", "#a4508b", "v", "\\\\\\"),
}

KINDS = {
    "weights": ("#345f8f", ""),
    "gradients": ("#83a6cc", ""),
    "optimizer": ("#b9cbe0", ""),
    "activations": ("#0b6e4f", ""),
    "kv": ("#c8862a", "///"),
    "dkv": ("#e0b268", ""),
    "staging": ("#8e5a9e", "..."),
    "temporary": ("#9aa1ab", ""),
}
"""Colour and hatch of the bytes of a kind."""

INSTRUCTIONS = {
    "forward": ("#0b6e4f", "#4fa386"),
    "backward": ("#345f8f", "#83a6cc"),
    "zero dKV": ("#9aa1ab", "#9aa1ab"),
    "offload": ("#c8862a", "#c8862a"),
    "reload": ("#e0b268", "#e0b268"),
    "send": ("#8e5a9e", "#8e5a9e"),
    "receive": ("#c4a5cd", "#c4a5cd"),
    "MSP weights": ("#b5476b", "#b5476b"),
}
"""By category: the colour of chunks 0, 2, ... of a stage, and that of chunks 1, 3, ..."""


def look(system: str) -> Look:
    """The look of a system, the same in every figure; gray for a system that is registered."""
    return _LOOKS.get(system, Look(system, "#8a8f98", "^", "xxx"))


def bar(
    system: str, *, hollow: bool = False, pale: bool = False, hatch: str = ""
) -> dict[str, Any]:
    """Arguments of a system's bar for matplotlib, with the system's hatch unless one is given.

    hollow: an outline, for the paper's numbers. pale: for a peer as the paper ran it.
    """
    colour = look(system).colour
    if hollow:
        return {"facecolor": PAPER, "edgecolor": colour, "linewidth": 1.2}
    hatch = hatch or look(system).hatch
    if pale:
        return {"facecolor": BAND, "edgecolor": colour, "linewidth": 0.8, "hatch": hatch}
    return {"facecolor": colour, "edgecolor": PAPER, "linewidth": 0, "hatch": hatch}


def words(
    axes: Any, text: str, xy: tuple[float, float], *, failed: bool = False, **options: Any
) -> None:
    """Words at a point, on white, so that no line runs through them; red if `failed`."""
    axes.annotate(
        text,
        xy,
        textcoords="offset points",
        color=FAILED if failed else INK,
        fontweight="bold" if failed else "normal",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
        **{"va": "center", "fontsize": NUMBER_SIZE, **options},
    )


def limit_words(device_memory_bytes: int | None) -> str:
    """ "136.0 MiB a rank", or "no memory limit"."""
    if device_memory_bytes is None:
        return "no memory limit"
    return f"{format_bytes(device_memory_bytes)} a rank"


def source(label: str, origin: Mapping[str, Any], *facts: str) -> str:
    """ "measured · AMD EPYC, 2 cores · commit 72c862674 · 2026-11-28": where numbers come from.

    `label` is measured, emulated, simulated or paper; `origin` is an environment, or the head of a
    study's JSON.
    """
    parts = [label, origin.get("machine"), *facts, commit_words(origin), origin.get("date")]
    return " · ".join(part for part in parts if part)


def emulated_source(hardware: str, environment: Mapping[str, Any]) -> str:
    """The source of counts: the profile whose memory is the limit, and the libraries' versions."""
    memory = f"memory of the {hardware} profile"
    return source("emulated", environment, memory, library_words(environment))


@contextmanager
def page(*paths: Path, title: str, source: str, inches: tuple[float, float]) -> Iterator[Any]:
    """A matplotlib figure of so many inches to draw on; written when the block ends.

    A path ends in .png or .svg. The legend lists every label that was drawn, once. Raises OSError.
    """
    with patch.dict(os.environ, MPLBACKEND="agg"):  # a notebook's need not be installed here
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    with rc_context(fname=_SHEET):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure
        _frame(figure, title, source)
        for path in paths:
            figure.savefig(path)


def _frame(figure: Any, title: str, source: str) -> None:
    """Title and legend above, source line below; the axes get the room between."""
    inch = 1 / figure.get_figheight()
    left = 0.008
    heading = figure.text(left, 1 - 0.08 * inch, title, va="top", wrap=True)
    heading.set(fontsize=12, fontweight="bold")
    foot = figure.text(left, 0.07 * inch, source, va="bottom", wrap=True)
    foot.set(fontsize=NUMBER_SIZE, color=FAINT)
    top, bottom = _box(heading).y0, _box(foot).y1 + 0.04 * inch
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {handle.get_label(): handle for handle in axes.get_legend_handles_labels()[0]}
    place = {"loc": "upper left", "bbox_to_anchor": (0, top)}
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(handles.values(), handles, ncols=columns, **place)
        if _box(legend).x1 <= 1 or columns == 1:
            top = _box(legend).y0
            break
        legend.remove()
    figure.get_layout_engine().set(rect=(0, bottom, 1, top - bottom))


def _box(artist: Any) -> Any:
    """The artist's extent in shares of the figure."""
    return artist.get_window_extent().transformed(artist.figure.transFigure.inverted())
