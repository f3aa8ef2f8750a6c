"""Chrome traces: what a viewer needs."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from benchmarks.records.timeline import Event
from benchmarks.reporting import chrome_trace, style
from benchmarks.reporting.chrome_trace import category
from sppo.schedule.instructions import Instruction, Op


def event(name: str, lane: str, start: int, end: int) -> Event:
    return Event(name=name, lane=lane, start_ns=start, end_ns=end)


EVENTS = [
    event("F0.0@0", "compute", 5_000, 9_000),
    event("SEND_F0.0@0", "p2p", 9_000, 15_000),
    event("OFFLOAD0.0@0", "d2h", 9_000, 11_000),
    event("F0.1@0", "compute", 9_000, 12_000),
    event("SEND_F0.1@0", "p2p", 12_000, 16_000),
]


def test_lanes_are_named_threads_and_times_are_microseconds() -> None:
    trace = chrome_trace.chrome_trace(EVENTS, rank=3, ranks=8, label="measured", origin_ns=5_000)
    assert trace["distributedInfo"] == {"rank": 3, "world_size": 8}
    names = {
        e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"
    }
    assert list(names.values()) == ["compute", "D2H", "H2D", "P2P", "P2P 2"]
    done = {e["name"]: e for e in trace["traceEvents"] if e["ph"] == "X"}
    assert {e["pid"] for e in trace["traceEvents"]} == {3}
    assert (done["F0.0@0"]["ts"], done["F0.0@0"]["dur"]) == (0.0, 4.0)
    assert (done["OFFLOAD0.0@0"]["ts"], done["OFFLOAD0.0@0"]["dur"]) == (4.0, 2.0)
    assert names[done["OFFLOAD0.0@0"]["tid"]] == "D2H"
    assert done["F0.0@0"]["cat"] == "forward"
    assert {names[done[name]["tid"]] for name in ("SEND_F0.0@0", "SEND_F0.1@0")} == {"P2P", "P2P 2"}


def test_rows_hold_no_overlap_and_lose_nothing() -> None:
    rows = chrome_trace.without_overlap(EVENTS)
    assert sorted(e.name for row in rows for e in row) == sorted(e.name for e in EVENTS)
    for row in rows:
        assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(row))


def test_files_are_strict_json_with_the_rank_in_their_head(tmp_path: Path) -> None:
    (tmp_path / "rank-9.json").write_text("of a larger run")
    ranks = range(0, 4, 2)
    paths = chrome_trace.write_traces([EVENTS, EVENTS], tmp_path, label="simulated", ranks=ranks)
    assert [path.name for path in paths] == ["rank-0.json", "rank-2.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0.json", "rank-2.json"]

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    text = paths[1].read_text()
    assert json.loads(text, parse_constant=refuse)["traceEvents"]
    found = re.search(r'"rank":\s+(\d+)', text)
    assert found is not None
    assert found[1] == "2"


def test_every_instruction_has_a_category_and_a_colour() -> None:
    for op in Op:
        assert (
            category(event(str(Instruction(op, 0, 3, 1, 1, 0)), op.lane, 0, 1))
            in style.INSTRUCTIONS
        )
    for name in ("SEND_W0.0/1@0", "ADD_DW0.0/1@0", "AW0.0/1@0"):
        assert category(event(name, "p2p", 0, 1)) == "MSP weights"
