"""The paper's boundaries as a picture: peaks of every point under the card's memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import FAILED, FAINT, INK, OTHER
from benchmarks.paper_points import PaperPoints, Verdict
from benchmarks.paper_report import agreement
from sppo.workload import GIB

COLOURS = {"sppo": "#1f5fa8", "megatron": "#c96a1b", "deepspeed": "#4f8a4b"}


def draw(found: PaperPoints, path: Path) -> None:
    """A panel a model, a group a length, a bar a system; the paper's word under each bar.

    Writes a PNG; nothing where no point was emulated.
    """
    from matplotlib.figure import Figure

    shown = [one for one in found.verdicts if one.counted]
    if not shown:
        return
    models = list(dict.fromkeys(one.model for one in shown))
    figure: Any = Figure(figsize=(12.5, 4.8), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        _panel(axes, [one for one in shown if one.model == model])
    panels[0].set_ylabel("peak of the fullest role, GiB", color=INK)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, ncols=4, loc="outside upper right", fontsize=9)
    title = f"{found.label}: the paper's 15 points, {found.sequences_per_step} sequences a step"
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    caption = f"{agreement(found)}. Letters: what the paper reports; red: not the same."
    figure.text(0.01, -0.03, caption, color=FAINT, fontsize=8)
    figure.savefig(path, facecolor="white", bbox_inches="tight")


def _panel(axes: Any, shown: Sequence[Verdict]) -> None:
    lengths = list(dict.fromkeys(one.seq for one in shown))
    readings = list(dict.fromkeys(one.reading for one in shown))
    width = 0.8 / len(readings)
    capacity = next((one.capacity_bytes for one in shown if one.capacity_bytes), None)
    top = max((one.peak_device_bytes or 0 for one in shown), default=0) / GIB
    for number, reading in enumerate(readings):
        mine = [one for one in shown if one.reading == reading]
        places = [lengths.index(one.seq) + (number + 0.5) * width - 0.4 for one in mine]
        heights = [(one.peak_device_bytes or 0) / GIB for one in mine]
        colour = COLOURS.get(mine[0].system, OTHER)
        axes.bar(places, heights, width * 0.92, color=colour, label=reading)
        for place, height, one in zip(places, heights, mine, strict=True):
            colour = FAILED if one.agrees is False else INK
            words = f"{one.status}\npaper: {one.says or '-'}"
            axes.text(
                place,
                height + 0.01 * max(top, 1),
                words,
                ha="center",
                va="bottom",
                rotation=90,
                fontsize=6,
                color=colour,
            )
    if capacity:
        axes.axhline(capacity / GIB, color=INK, linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_title(f"{shown[0].model}, {shown[0].gpus} GPUs", color=INK, fontsize=10)
    axes.margins(y=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
