"""The measured bubble share."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.records import timeline


def event(lane: str, start: int, end: int) -> timeline.Event:
    return timeline.Event(name="F0.0@0", lane=lane, start_ns=start, end_ns=end)


def test_idle_is_what_neither_computes_nor_copies() -> None:
    first = [event("compute", 100, 150), event("p2p", 150, 160), event("d2h", 160, 180)]
    second = [event("compute", 150, 200)]
    # 100 ns makespan x 2 ranks; 50 + 20 + 50 ns of work
    assert timeline.bubble_share([first, second]) == pytest.approx(1 - 120 / 200)


def test_a_copy_beside_a_compute_is_no_further_work() -> None:
    events = [event("compute", 0, 80), event("d2h", 10, 90), event("h2d", 80, 100)]
    assert timeline.bubble_share([events], overlapped_copies=True) == pytest.approx(0.2)


def test_nothing_told_is_unknown(tmp_path: Path) -> None:
    assert timeline.bubble_share([]) is None
    (tmp_path / "timeline-0.json").write_text(
        msgspec.json.encode([event("compute", 0, 1)]).decode()
    )
    assert timeline.read(tmp_path, 2) == []
    assert len(timeline.read(tmp_path, 1)) == 1
