"""The table of a published `sppo-bench run`."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence

from benchmarks.docs.markdown import mib, rows_table
from benchmarks.records import store
from benchmarks.reporting.text_table import interval


def comparison(name: str) -> str:
    """The rows of a published `sppo-bench run`; where and how often they were measured."""
    folder = store.published_directory() / name
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    headers = ["row", "settings", "step, s, median [quartiles]", "timing"]
    headers += ["SPPO faster by [interval]", "MFU (causal)", "device peak", "host peak"]
    compared = rows_table(headers, map(_compared, rows))
    return f"{compared}\n\n{_origin((folder / 'table.md').read_text(encoding='utf-8'), rows)}"


def _origin(document: str, rows: Sequence[Mapping[str, str]]) -> str:
    """Machine, commit and date; launches of a row, and the peak under MFU."""
    (measured,) = re.findall(r"^- (measured on .*)$", document, re.MULTILINE)
    launches = sorted({int(row["launches"]) for row in rows})
    words = str(launches[0]) + (f" to {launches[-1]}" if len(launches) > 1 else "")
    peaks = re.findall(r"^- MFU: of (\S+ TFLOP/s) per rank", document, re.MULTILINE)
    peak = f" MFU is relative to a peak of {peaks[0]} a rank." if peaks else ""
    return f"{measured.replace('m', 'M', 1)} Launches of a row: {words}.{peak}"


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
