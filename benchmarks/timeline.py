"""What the ranks did and when, as a system tells it, and the share of time in which they idled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

Event = dict[str, Any]
"""{name, lane, start_ns, end_ns}; lanes are compute, d2h, h2d and p2p."""

BUSY_LANES = ("compute", "d2h", "h2d")
"""On a CPU a copy takes the compute's time, and counts as work, as in the simulator."""


def read(directory: Path, ranks: int) -> list[list[Event]]:
    """The timelines of a launch, one per rank; empty unless every rank wrote one."""
    paths = [directory / f"timeline-{rank}.json" for rank in range(ranks)]
    if not all(path.is_file() for path in paths):
        return []
    return [msgspec.json.decode(path.read_bytes(), type=list[Event]) for path in paths]


def bubble_share(timelines: Sequence[Sequence[Event]]) -> float | None:
    """Idle rank-time over ranks x makespan, of the ranks of one host (one clock); None if unknown.

    Waiting for a message is idle time; so are the moments between instructions.
    """
    events = [event for timeline in timelines for event in timeline]
    if not events:
        return None
    start: int = min(event["start_ns"] for event in events)
    end: int = max(event["end_ns"] for event in events)
    busy: int = sum(
        event["end_ns"] - event["start_ns"] for event in events if event["lane"] in BUSY_LANES
    )
    return 1 - busy / (len(timelines) * (end - start))
