"""The table of docs/peers.md on committed grids: the fastest point of each system, by limit."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.docs.markdown import NOTHING, Columns, mib, table
from benchmarks.reporting.style import limit_words
from benchmarks.rows import tuning
from sppo.config.sizes import MIB

WORKLOAD = "tiny-cpu"
LIMITS_BYTES = (136 * MIB, None)


@dataclass(frozen=True, kw_only=True)
class Fastest:
    """The fastest point of a system's grid under a limit."""

    device_memory_bytes: int | None
    system: str
    grid: tuple[tuning.GridPoint, ...]
    point: tuning.GridPoint
    origin: str


def measured_grids() -> str:
    """Points of the grids of tiny-cpu, how many ran, and the fastest. Raises ValueError."""
    rows = [row for limit_bytes in LIMITS_BYTES for row in _fastest(limit_bytes)]
    columns: Columns = {
        "limit": lambda row: limit_words(row.device_memory_bytes),
        "system": lambda row: f"`{row.system}`",
        "points": lambda row: str(len(row.grid)),
        "that ran": lambda row: str(sum(point.status == "ok" for point in row.grid)),
        "fastest": lambda row: row.point.settings_text,
        "step, s": _seconds,
        "tracked peak": lambda row: mib(row.point.tracked_peak_bytes),
    }
    origins = "; ".join(dict.fromkeys(row.origin for row in rows))
    return f"{table(columns, rows)}\n\nMeasured: {origins}."


def _fastest(limit_bytes: int | None) -> list[Fastest]:
    path = tuning.path_of(WORKLOAD, limit_bytes)
    grids = tuning.load(path)
    if grids is None:
        raise ValueError(f"{path.name} is not there: measure with `run {WORKLOAD} --tune`")
    rows = []
    for system, grid in grids.systems.items():
        point = tuning.fastest(grid.points)
        assert point is not None, f"{system}: no point ran"
        rows.append(
            Fastest(
                device_memory_bytes=limit_bytes,
                system=system,
                grid=tuple(grid.points),
                point=point,
                origin=grid.origin,
            )
        )
    return sorted(rows, key=lambda row: row.point.step_seconds_median or 0.0)


def _seconds(row: Fastest) -> str:
    seconds = row.point.step_seconds_median
    return NOTHING if seconds is None else f"{seconds:.3f}"
