"""`python -m benchmarks.commands.reports.redraw`: draw every published figure again, launching
nothing: each from the JSON, or the records, in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.emulation import memory_figure, result
from benchmarks.emulation.result import Emulation
from benchmarks.paper import boundaries_figure, verdicts
from benchmarks.paper.verdicts import PaperPoints
from benchmarks.records import record as records
from benchmarks.records import store
from benchmarks.reporting import bar_chart, style, tables
from benchmarks.reporting.tables import Summary
from benchmarks.studies import ablation, sweep, sweep_figure
from benchmarks.studies.sweep import SweepPoint
from benchmarks.workloads import find


def redraw(published: Path, output: Path) -> list[Path]:
    """Write every figure of `published` into the same folder below `output`; their paths.

    Raises ValueError or OSError where a figure's JSON or records cannot be read.
    """
    paths = []
    for figure in sorted(published.rglob("*.png")):
        path = output / figure.relative_to(published)
        path.parent.mkdir(parents=True, exist_ok=True)
        source = figure.with_suffix(".json")
        if source.is_file():
            _draw(source, path)
        else:
            bar_chart.bar_chart(records.read_all(figure.parent), path)
        paths.append(path)
    return paths


def _draw(source: Path, path: Path) -> None:
    data = msgspec.json.decode(source.read_bytes())
    match data["schema"]:
        case sweep.SCHEMA:
            results = msgspec.convert(data["values"], list[SweepPoint])
            sweep_figure.line_chart(find(data["workload"]), data["quantity"], results, data, path)
        case verdicts.SCHEMA:
            boundaries_figure.draw(msgspec.convert(data, PaperPoints), path)
        case result.SCHEMA:
            emulation = msgspec.convert(data, Emulation)
            report = next(role for role in emulation.roles if role.role == emulation.limiting_role)
            memory_figure.draw(emulation, report, source.with_suffix(".csv"), path)
        case ablation.SCHEMA:
            _draw_ablation(data, path)
        case schema:
            raise ValueError(
                f"{source}: no figure is known for {schema}; delete the .png beside it"
            )


def _draw_ablation(data: dict[str, Any], path: Path) -> None:
    workload = find(data["workload"])
    tokens = workload.sequences_per_step * workload.sequence_tokens / workload.cluster.ranks
    unknown = {"system": ablation.SYSTEM, "grid": "", "launches": 0, "launches_ok": 0}
    rows = []
    for policy in data["policies"]:
        name = ablation.label(policy["policy"])
        row = msgspec.convert({"row": name, **unknown, **policy}, Summary)
        rows.append(replace(row, tokens_per_second_per_rank=tables.rate(tokens, row.step_seconds)))
    title = bar_chart.title(workload, data["device_memory_bytes"])
    bar_chart.draw_rows(rows, path, title=title, source=style.source("measured", data))


if __name__ == "__main__":
    for figure in redraw(store.published_directory(), store.published_directory()):
        print(figure)
