"""Live bytes of one rank over its step, by kind, under the device's capacity."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.emulation.result import KINDS, Emulation, RoleReport
from benchmarks.reporting import style
from sppo.config.sizes import GIB, MIB, format_bytes, length_name

_NAMES = {"kv": "KV", "dkv": "dKV"}


def draw(emulation: Emulation, report: RoleReport, curve: Path, path: Path) -> None:
    """Write a PNG of `curve`, the CSV that the emulated rank has written. Raises OSError."""
    assert report.counts is not None, "only a counted role has a curve"
    with curve.open(newline="", encoding="ascii") as stream:
        rows = list(csv.DictReader(stream))
    peak_bytes = report.counts.peak_device_bytes
    unit, unit_name = (GIB, "GiB") if peak_bytes >= GIB else (MIB, "MiB")
    live = {kind: [int(row[f"{kind}_bytes"]) / unit for row in rows] for kind in KINDS}
    live = {kind: heights for kind, heights in live.items() if any(heights)}
    colours, hatches = zip(*(style.KINDS[kind] for kind in live), strict=True)

    workload = emulation.workload
    environment = {**emulation.environment, "versions": report.versions}
    system = style.look(emulation.system).name
    length = length_name(workload.sequence_tokens)
    with style.page(
        path,
        title=f"{system}, {emulation.settings_text}: {workload.model.name}, "
        f"{length} tokens, {workload.cluster.ranks} ranks; {report.role}",
        source=style.emulated_source(workload.cluster.hardware, environment),
        inches=(9.0, 4.6),
    ) as figure:
        axes = figure.add_subplot()
        axes.stackplot(
            [float(row["share"]) for row in rows],
            *live.values(),
            labels=[_NAMES.get(kind, kind) for kind in live],
            colors=colours,
            hatch=hatches,
            edgecolor=style.PAPER,
            linewidth=0,
        )
        capacity_bytes = emulation.capacity_bytes
        if capacity_bytes is not None:
            label = f"device memory, {format_bytes(capacity_bytes)}"
            axes.axhline(capacity_bytes / unit, color=style.FAILED, linestyle="--", label=label)
        place = report.counts.peak_at.share
        label = f"peak, {format_bytes(peak_bytes)}"
        axes.plot(place, peak_bytes / unit, "o", color=style.INK, label=label, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"live bytes of the device, {unit_name}")
        axes.set_xlabel("share of the step's operators that have run")
