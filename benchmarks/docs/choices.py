"""The settings of peers that committed emulations found for named workloads."""

from __future__ import annotations

from typing import Any

import msgspec

from baselines import registry
from benchmarks.docs.markdown import rows_table
from benchmarks.rows import emulated_choices
from benchmarks.rows.assign import grid_assignments
from benchmarks.rows.row import ROWS, Row
from benchmarks.workloads import WORKLOADS
from sppo.config.workload import Workload

NOTHING = "No emulation of a named workload is committed."


def emulated() -> str:
    """A line for each workload with a choice, and a column for each tuned row that has any."""
    found = {
        (workload.name, row): words
        for workload in WORKLOADS.values()
        for row in ROWS
        if (words := _words(row, workload)) is not None
    }
    rows = [row for row in ROWS if any(row == column for _, column in found)]
    lines = [
        [f"`{name}`", *(found.get((name, row)) or _without(row, WORKLOADS[name]) for row in rows)]
        for name in dict.fromkeys(name for name, _ in found)
    ]
    return rows_table(["workload", *(row.label for row in rows)], lines) if lines else NOTHING


def _without(row: Row, workload: Workload) -> str:
    """Why a row has no choice: its library refuses the whole grid, or nothing was emulated."""
    points = grid_assignments(row.system, workload)
    return "cannot run" if all(point.status for point in points) else "untuned"


def _words(row: Row, workload: Workload) -> str | None:
    """The settings in words; None for a row without a committed choice."""
    if row.choosing != "tuned":
        return None
    choice = emulated_choices.choose(row.system, workload)
    if choice is None:
        return None
    adapter = registry.load(row.system)
    settings: Any = msgspec.convert(choice[0], adapter.settings_type)
    return adapter.describe(settings)
