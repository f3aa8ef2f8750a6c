"""The paper's boundaries as pictures: peaks under the card's memory, and longest sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.boundaries import LONGEST_AT_MOST_FACTOR, PaperPoints, Verdict
from benchmarks.paper.boundaries_report import agreement
from benchmarks.paper.layout_rules import LONGEST_MODEL
from benchmarks.reporting.style import FAILED, FAINT, INK, OTHER
from sppo.config.sizes import GIB, length_name

MILLION = 1024**2

COLOURS = {"sppo": "#1f5fa8", "megatron": "#c96a1b", "deepspeed": "#4f8a4b"}


def draw(found: PaperPoints, path: Path) -> None:
    """Fig. 10 if it has verdicts, else fig. 12. Writes a PNG."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(12.5, 4.8), dpi=150, layout="constrained")
    count = found.sequences_per_step
    each = f"{count} sequence{'s' if count > 1 else ''} a step"
    if found.verdicts:
        _points(figure, found)
        points = len({(one.model, one.seq) for one in found.verdicts})
        title = f"{found.label}: {points} points of the paper, {each}"
        caption = (
            f"{agreement(found)}. Upright words: emulated, and the paper's; red: not the same."
        )
    else:
        _longest(figure, found)
        title = f"{found.label}: the longest sequence of {LONGEST_MODEL} that fits, {each}"
        caption = (
            "Hollow bars: what the paper reports (fig. 12). No search asks for more than "
            f"{LONGEST_AT_MOST_FACTOR} times the paper's SPPO."
        )
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    figure.text(0.01, -0.03, caption, color=FAINT, fontsize=8)
    figure.savefig(path, facecolor="white", bbox_inches="tight")


def _points(figure: Any, found: PaperPoints) -> None:
    """A panel a model, a group a length, a bar a system."""
    shown = [one for one in found.verdicts if one.counted]
    models = list(dict.fromkeys(one.model for one in shown))
    panels = figure.subplots(1, max(1, len(models)), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=False):
        _panel(axes, [one for one in shown if one.model == model])
    panels[0].set_ylabel("peak of the fullest role, GiB", color=INK)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, ncols=4, loc="outside upper right", fontsize=9)


def _longest(figure: Any, found: PaperPoints) -> None:
    """A group a number of GPUs; a bar a system, the paper's hollow around it."""
    axes = figure.add_subplot()
    gpus = list(dict.fromkeys(one.gpus for one in found.longest))
    readings = list(dict.fromkeys(one.rule_name for one in found.longest))
    width = 0.8 / max(1, len(readings))
    for number, reading in enumerate(readings):
        mine = [one for one in found.longest if one.rule_name == reading]
        places = [gpus.index(one.gpus) + (number + 0.5) * width - 0.4 for one in mine]
        heights = [one.longest_tokens / MILLION for one in mine]
        said = [(one.paper_tokens or 0) / MILLION for one in mine]
        colour = COLOURS.get(mine[0].system, OTHER)
        axes.bar(places, heights, width * 0.92, color=colour, label=reading)
        axes.bar(places, said, width * 0.92, fill=False, edgecolor=INK, linewidth=1.0)
        for place, one, height in zip(places, mine, heights, strict=True):
            words = length_name(one.longest_tokens) if one.longest_tokens else "cannot run"
            axes.text(place, height, words, ha="center", va="bottom", fontsize=7, color=INK)
    axes.set_xticks(range(len(gpus)), [f"{count} GPUs" for count in gpus])
    axes.set_ylabel("million tokens (1M = 1,048,576)", color=INK)
    axes.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _panel(axes: Any, shown: Sequence[Verdict]) -> None:
    lengths = list(dict.fromkeys(one.seq for one in shown))
    readings = list(dict.fromkeys(one.rule_name for one in shown))
    width = 0.8 / len(readings)
    capacity = next((one.capacity_bytes for one in shown if one.capacity_bytes), None)
    top = max((one.peak_device_bytes or 0 for one in shown), default=0) / GIB
    for number, reading in enumerate(readings):
        mine = [one for one in shown if one.rule_name == reading]
        places = [lengths.index(one.seq) + (number + 0.5) * width - 0.4 for one in mine]
        heights = [(one.peak_device_bytes or 0) / GIB for one in mine]
        colour = COLOURS.get(mine[0].system, OTHER)
        axes.bar(places, heights, width * 0.92, color=colour, label=reading)
        for place, height, one in zip(places, heights, mine, strict=True):
            colour = FAILED if one.agrees is False else INK
            words = f"{one.status}\npaper: {one.paper_outcome or '-'}"
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
