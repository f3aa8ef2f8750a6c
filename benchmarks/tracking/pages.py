"""The paper's pages as a wandb run: of each item its points with labels, and its figure."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tracking.tracked_run import Cells, Heading, Picture, TrackedRun, content_id

NUMBERS = ("value", "kernel_limit_share")
"""Columns of an item's CSV that hold numbers, or nothing."""


def heading(environment: Mapping[str, Any], keys: Collection[str], folder: Path) -> Heading:
    """The head of the run. The same items of one commit are one run.

    keys: the items that a command makes or cannot make. A commit does not tell the content of
    changed files, so their folder is in the id: two folders never share the steps of a run.
    """
    commit = environment.get("commit")
    is_known = commit is not None and not environment.get("dirty")
    versions = sorted(environment.get("versions", {}).items())
    origin = (commit,) if is_known else (commit or versions, folder.resolve())
    return Heading(
        run_id=content_id("paper", *origin, *sorted(keys)),
        name=f"paper, commit {str(commit or 'unknown')[:9]}",
        job_type="paper",
        tags=("paper",),
        config={"command": "paper", "environment": dict(environment)},
    )


def log_item(run: TrackedRun, folder: Path, key: str) -> None:
    """The points and the figure of an item whose files are written. Raises OSError."""
    points = folder / f"{key}.csv"
    data = points.read_bytes()
    values: dict[str, Any] = {f"{key}/points": _cells(points)}
    figure = folder / f"{key}.png"
    if figure.is_file():
        values[f"{key}/figure"] = Picture(path=figure)
    run.result(f"{key} {hashlib.sha256(data).hexdigest()[:16]}", values)


def end(run: TrackedRun, values: Mapping[str, Any]) -> None:
    """How near each item is to the paper. values: of index.json."""
    summary: dict[str, Any] = {}
    for item in values["items"]:
        for name in ("title", "agreement", "verdict"):
            summary[f"{item['item']}/{name}"] = item[name]
        summary[f"{item['item']}/labels"] = ", ".join(item["labels"])
    run.end(summary, exit_code=0)


def _cells(path: Path) -> Cells:
    """A CSV with a header line. Columns of numbers have numbers, None where a cell is empty."""
    with path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    titles = list(lines[0]) if lines else ["item"]
    columns = [_column(title, [line[title] or "" for line in lines]) for title in titles]
    return Cells(titles=titles, rows=list(zip(*columns, strict=True)))


def _column(title: str, texts: Sequence[str]) -> Sequence[str | float | None]:
    """A column that should have numbers, and has other words, stays as it is."""
    if title not in NUMBERS:
        return texts
    try:
        return [float(text) if text else None for text in texts]
    except ValueError:
        return texts
