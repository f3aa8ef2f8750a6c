"""Differences of values, and their lines for people."""

from __future__ import annotations

from typing import Any

from benchmarks.regression.check import topics
from benchmarks.regression.check.differences import compare
from benchmarks.regression.check.report import Change, lines


def changes(old: dict[str, object], new: dict[str, object], topic: str = "topic") -> list[Change]:
    differences = compare({"case": old}, {"case": new}, {})
    return [Change(topic=topic, difference=difference) for difference in differences]


def test_every_kind_of_difference() -> None:
    old = {
        "gone": {"x": 1},
        "kept": {"list": [1, 20, 3], "grown": [1], "text": "a", "deep": {"x": 2.0}, "left": 1},
        "same": {"x": [1.0, "a", None, True]},
    }
    new = {
        "kept": {"list": [1, 21, 4], "grown": [1, 2], "text": "b", "deep": {"x": 1.5}, "new": 0},
        "same": {"x": [1.0, "a", None, True]},
        "more": {"x": 1},
    }
    assert [str(difference) for difference in compare(old, new, {})] == [
        "gone: the case: expected -> not made any more",
        "kept: deep.x: 2.0 -> 1.5 (-25 %)",
        "kept: grown: 1 entries -> 2 entries",
        "kept: left: 1 -> absent",
        "kept: list.2: 3 -> 4 (+33.3 %), 1 more of the list",
        "kept: new: absent -> 0",
        "kept: text: a -> b",
        "more: the case: not in the file -> made",
    ]


def test_true_is_not_one_and_one_is_not_one_point_nought() -> None:
    old = {"case": {"a": True, "b": 1, "c": None}}
    new = {"case": {"a": 1, "b": 1.0, "c": 0}}
    assert [difference.key for difference in compare(old, new, {})] == ["a", "b", "c"]


def test_a_tolerance_is_for_its_own_keys() -> None:
    old = {"case": {"loss": [2.0, 3.0], "peak": 100}}
    new = {"case": {"loss": [2.000001, 3.1], "peak": 101}}
    keys = [difference.key for difference in compare(old, new, {r"loss\.\d+": 1e-6})]
    assert keys == ["loss.1", "peak"]


def test_alike_changes_are_one_line_with_their_range() -> None:
    old = {"roles": {f"rank {n}": {"peak": 100} for n in range(4)}}
    new = {"roles": {f"rank {n}": {"peak": 101 + n} for n in range(4)}}
    everywhere = [*changes(old, new, "first"), *changes(old, new, "second")]
    assert lines(everywhere) == [
        "first: case: roles.rank 3.peak: 100 -> 104 (+4 %); 7 more of the same, "
        "+1 % to +4 %, also in second"
    ]


def test_a_new_operator_is_shown_before_a_larger_number() -> None:
    old = {"operators": {"aten.mm": 10}}
    new = {"operators": {"aten.mm": 20, "aten._local_scalar_dense": 1}}
    (line,) = lines(changes(old, new))
    assert "_local_scalar_dense: absent -> 1; 1 more of the same, +100 %" in line


def test_causes_come_before_times_and_digests() -> None:
    old = {"a_digest": "x", "bytes": 1, "makespan_ns": 1}
    new = {"a_digest": "y", "bytes": 2, "makespan_ns": 2}
    assert [line.split(": ")[2] for line in lines(changes(old, new))] == [
        "bytes",
        "makespan_ns",
        "a_digest",
    ]


def test_no_more_lines_than_asked() -> None:
    old = {f"{letter}": 0 for letter in "abcdefghijkl"}
    new = {f"{letter}": 1 for letter in "abcdefghijkl"}
    assert len(lines(changes(old, new), most=12)) == 12
    shown = lines(changes(old, new), most=3)
    assert len(shown) == 3
    assert shown[-1] == "and 10 more in 10 kinds: --lines 12"


def test_margins_are_for_their_own_keys() -> None:
    def role(calls: int, messages: int) -> dict[str, Any]:
        traffic = {"all_gather 0-3": {"calls": messages, "bytes": 8}}
        return {"calls": {"sppo.plan": calls}, "operators": {"x": calls}, "communication": traffic}

    def differing(name: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        (topic,) = topics.find([name])
        differences = compare({"case": old}, {"case": new}, topic.tolerances)
        return [difference.key for difference in differences]

    old, new = ({"roles": {"rank 0": role(*counts)}} for counts in ((1000, 140), (1009, 141)))
    assert differing("emulations", old, new) == [
        "roles.rank 0.communication.all_gather 0-3.calls",
        "roles.rank 0.operators.x",
    ]
    calls = ({"calls": {"sppo.plan": 1000}}, {"calls": {"sppo.plan": 1009}})
    assert differing("calls-planning", *calls) == []
    assert differing("calls-planning", calls[0], {"calls": {"sppo.plan": 1011}})
    old = {"loss": [2.0], "grad_norm": [1.0], "rank 0": {"peak_device_bytes": 100, "x": 100}}
    new = {"loss": [2.000001], "grad_norm": [1.0], "rank 0": {"peak_device_bytes": 104, "x": 104}}
    assert differing("gloo", old, new) == ["rank 0.x"]
