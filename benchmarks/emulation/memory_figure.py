"""Live bytes of one rank over its step, by kind, under the device's capacity."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.emulation.result import KINDS, LABEL, Emulation, RoleReport
from benchmarks.reporting.style import FAILED, FAINT, INK
from sppo.config.sizes import GIB, MIB, length_name

_COLOURS = {
    "weights": "#345f8f",
    "gradients": "#83a6cc",
    "optimizer": "#b9cbe0",
    "activations": "#0b6e4f",
    "kv": "#c8862a",
    "dkv": "#e0b268",
    "staging": "#8e5a9e",
    "temporary": "#9aa1ab",
}


def draw(found: Emulation, report: RoleReport, curve: Path, path: Path) -> None:
    """Write a PNG of the CSV that the emulated rank has left."""
    from matplotlib.figure import Figure

    assert report.counts is not None, "only a counted role has a curve"
    with curve.open(newline="", encoding="ascii") as stream:
        rows = list(csv.DictReader(stream))
    peak_bytes = report.counts.peak_device_bytes
    unit, name = (GIB, "GiB") if peak_bytes >= GIB else (MIB, "MiB")
    shares = [float(row["share"]) for row in rows]
    kinds = [kind for kind in KINDS if any(int(row[f"{kind}_bytes"]) for row in rows)]
    heights = [[int(row[f"{kind}_bytes"]) / unit for row in rows] for kind in kinds]

    figure = Figure(figsize=(9.0, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    colours = [_COLOURS[kind] for kind in kinds]
    axes.stackplot(shares, heights, labels=kinds, colors=colours, linewidth=0)
    axes.plot(report.counts.peak_at.share, peak_bytes / unit, "o", color=INK, markersize=4)
    if found.capacity_bytes is not None:
        axes.axhline(found.capacity_bytes / unit, color=FAILED, linewidth=1.1, label="capacity")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"live, {name}", color=FAINT)
    axes.set_xlabel("share of the step's operators", color=FAINT, loc="left")
    axes.tick_params(colors=FAINT, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, reverse=True
    )
    axes.set_title(
        f"{LABEL}: {found.system}, {found.settings_text}; {found.workload.model.name}, "
        f"{length_name(found.workload.sequence_tokens)}, {report.role}",
        loc="left",
        fontsize=9,
        color=INK,
    )
    figure.savefig(path, facecolor="white")
