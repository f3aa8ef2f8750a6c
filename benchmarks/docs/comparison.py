"""The table of a published `sppo-bench run`."""

from __future__ import annotations

import csv
from collections.abc import Mapping

from benchmarks.docs.markdown import mib, rows_table
from benchmarks.records import store
from benchmarks.reporting.text_table import interval


def comparison(name: str) -> str:
    """The rows of a published `sppo-bench run`, and where they were measured."""
    folder = store.published_directory() / name
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = [_compared(row) for row in csv.DictReader(file)]
    headers = ["row", "settings", "step, s, median [quartiles]", "timing"]
    headers += ["SPPO faster by [interval]", "MFU (causal)"]
    head = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    (measured,) = (line for line in head if line.startswith("- measured on "))
    compared = rows_table([*headers, "device peak", "host peak"], rows)
    return f"{compared}\n\n{measured.replace('- m', 'M', 1)}"


def _compared(row: Mapping[str, str]) -> list[str]:
    if row["status"] != "ok":
        return [row["row"], row["settings"], row["status"], "", "", "", "", ""]
    seconds = [float(row[f"step_seconds_{part}"]) for part in ("median", "low", "high")]
    return [
        row["row"],
        row["settings"],
        "{:.3f} [{:.3f}, {:.3f}]".format(*seconds),
        row["timing"] or "-",
        interval(*(_number(row[f"sppo_speed_up{end}"]) for end in ("", "_low", "_high"))),
        f"{100 * float(row['mfu_causal']):.1f} %",
        mib(int(row["tracked_peak_bytes"])),
        mib(int(row["host_peak_bytes"])) or "0",
    ]


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
