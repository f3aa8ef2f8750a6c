"""Timelines as Chrome traces: one JSON file per rank, for Perfetto and trace analysers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import store
from benchmarks.records.timeline import LANES, Event, span_ns
from sppo.schedule.instructions import Op

LANE_NAMES = {"compute": "compute", "d2h": "D2H", "h2d": "H2D", "p2p": "P2P"}

CATEGORIES = {
    Op.FORWARD: "forward",
    Op.BACKWARD: "backward",
    Op.ZERO_DKV: "zero dKV",
    Op.OFFLOAD: "offload",
    Op.RELOAD: "reload",
    Op.SEND_F: "send",
    Op.SEND_B: "send",
    Op.RECV_F: "receive",
    Op.RECV_B: "receive",
}
"""All further instructions send or add weights of an MSP split."""


def category(event: Event) -> str:
    """The category of an event in viewers: F0.3@1 -> "forward"."""
    return CATEGORIES.get(event.instruction.op, "MSP weights")


def chrome_trace(
    events: Sequence[Event], *, rank: int, ranks: int, label: str, origin_ns: int = 0
) -> dict[str, Any]:
    """The trace of one rank, in microseconds after `origin_ns`.

    `label` is "simulated" or "measured". In a viewer the events of a thread must nest, so a lane
    with overlapping events (two messages at a time) has further threads. `stream` marks computes
    of the device for analysers of GPU traces.
    """
    threads = _threads(events)
    trace = _names(rank, label, [name for name, _ in threads])
    for thread, (_, lane_events) in enumerate(threads):
        for event in lane_events:
            stream = {"stream": thread} if event.lane == "compute" else {}
            trace.append(
                {
                    "ph": "X",
                    "name": event.name,
                    "cat": category(event),
                    "pid": rank,
                    "tid": thread,
                    "ts": (event.start_ns - origin_ns) / 1e3,
                    "dur": (event.end_ns - event.start_ns) / 1e3,
                    "args": {"label": label, **stream},
                }
            )
    return {
        "distributedInfo": {"rank": rank, "world_size": ranks},
        "label": label,
        "displayTimeUnit": "ms",
        "traceEvents": trace,
    }


def _threads(events: Sequence[Event]) -> list[tuple[str, list[Event]]]:
    """(name, events without overlaps): a thread for every lane, then threads for overlaps."""
    first, further = [], []
    for lane in LANES:
        rows = without_overlap([event for event in events if event.lane == lane])
        first.append((LANE_NAMES[lane], rows[0] if rows else []))
        further += [(f"{LANE_NAMES[lane]} {n}", row) for n, row in enumerate(rows[1:], start=2)]
    return first + further


def without_overlap(events: Sequence[Event]) -> list[list[Event]]:
    """The events in as few rows as their overlaps allow, each row in the order of time."""
    rows: list[list[Event]] = []
    for event in sorted(events, key=lambda e: (e.start_ns, e.end_ns)):
        free = next((row for row in rows if row[-1].end_ns <= event.start_ns), None)
        if free is None:
            rows.append([event])
        else:
            free.append(event)
    return rows


def _names(rank: int, label: str, threads: Sequence[str]) -> list[dict[str, Any]]:
    """The metadata events that name the process and its threads, and keep them in order."""

    def metadata(kind: str, thread: int, **arguments: Any) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": arguments}

    named = [
        metadata("process_name", 0, name=f"rank {rank} ({label})"),
        metadata("process_sort_index", 0, sort_index=rank),
    ]
    for number, name in enumerate(threads):
        named.append(metadata("thread_name", number, name=name))
        named.append(metadata("thread_sort_index", number, sort_index=number))
    return named


def write_traces(
    timelines: Sequence[Sequence[Event]], directory: Path, *, label: str, ranks: range
) -> list[Path]:
    """Write rank-N.json for every timeline, N of `ranks`; earlier files are removed.

    The range ends at the number of all ranks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("rank-*.json"):
        path.unlink()
    origin_ns, _ = span_ns(timelines)
    paths = []
    for rank, events in zip(ranks, timelines, strict=True):
        trace = chrome_trace(events, rank=rank, ranks=ranks.stop, label=label, origin_ns=origin_ns)
        paths.append(store.save(directory / f"rank-{rank}.json", trace))
    return paths
