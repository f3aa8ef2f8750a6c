"""The comparison itself: every difference is printed, with its size, and the command fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.regression import expected, topics
from benchmarks.regression.__main__ import main
from benchmarks.regression.differences import compare, lines
from benchmarks.regression.expected import Expected

QUICK = "plans-unit-costs"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the expected values, to be changed."""
    return Path(shutil.copytree(expected.default_directory(), tmp_path / "expected"))


def plant(folder: Path, topic: str, case: str, key: str, value: object) -> None:
    """Change one value of a file of expected values."""
    path = expected.path_of(folder, topic)
    document = json.loads(path.read_text())
    document["cases"][case][key] = value
    path.write_text(json.dumps(document))


def test_a_planted_change_is_the_only_line(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--topics", QUICK, "--expected", str(copied)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""
    plant(copied, QUICK, "PP 4, parts 1, N 8", "makespan", 30)
    assert main(arguments) == 1
    line = "plans-unit-costs: PP 4, parts 1, N 8: makespan: 30 -> 33 (+10 %)\n"
    assert capsys.readouterr().out == line


def test_an_update_tells_what_it_accepts(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(copied, QUICK, "PP 4, parts 1, N 8", "makespan", 30)
    arguments = ["--topics", QUICK, "--expected", str(copied)]
    assert main([*arguments, "--update"]) == 0
    assert "30 -> 33" in capsys.readouterr().out
    path = expected.path_of(copied, QUICK)
    assert path.read_text() == expected.path_of(expected.default_directory(), QUICK).read_text()
    assert main(arguments) == 0


def test_other_versions_are_no_difference(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topic = topics.find(["emulations"])[0]
    old = expected.versions_here() | {"torch": "1.0"}
    expected.write(copied, topic.name, Expected(cases={}, versions=old))
    assert main(["--topics", topic.name, "--expected", str(copied)]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "emulations: skipped: made with torch 1.0 (here " in shown.err


def test_wrong_input_names_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--topics", "planes"]) == 2
    assert "known: plans-unit-costs" in capsys.readouterr().err
    assert main(["--topics", QUICK, "--expected", str(tmp_path)]) == 2
    assert "make it with --update" in capsys.readouterr().err


def test_every_kind_of_difference() -> None:
    old = {
        "gone": {"x": 1},
        "kept": {"list": [1, 2, 3], "grown": [1], "text": "a", "deep": {"x": 2.0}, "left": 1},
        "same": {"x": [1.0, "a", None, True]},
    }
    new = {
        "kept": {"list": [1, 3, 4], "grown": [1, 2], "text": "b", "deep": {"x": 1.5}, "new": 0},
        "same": {"x": [1.0, "a", None, True]},
        "more": {"x": 1},
    }
    assert [str(difference) for difference in compare(old, new, {})] == [
        "gone: the case: expected -> not made any more",
        "kept: deep.x: 2.0 -> 1.5 (-25 %)",
        "kept: grown: 1 entries -> 2 entries",
        "kept: left: 1 -> absent",
        "kept: list.1: 2 -> 3 (+50 %), 1 more of the list",
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
    keys = [difference.key for difference in compare(old, new, {"loss": 1e-6})]
    assert keys == ["loss.1", "peak"]


def test_every_case_has_a_line_before_any_has_a_second() -> None:
    old = {f"case {n}": {f"key {k}": 0 for k in range(5)} for n in range(3)}
    new = {f"case {n}": {f"key {k}": 1 for k in range(5)} for n in range(3)}
    assert lines("topic", compare(old, new, {}), most=4) == [
        "topic: case 0: key 0: 0 -> 1",
        "topic: case 0: key 1: 0 -> 1",
        "topic: case 1: key 0: 0 -> 1",
        "topic: case 2: key 0: 0 -> 1",
        "topic: and 11 more, in 3 of 3 cases",
    ]


def test_a_file_is_sorted_and_its_lists_lie_in_rows() -> None:
    text = expected.to_text({"b": [1, 2], "a": {"y": {}, "x": 0.1}, "c": list(range(10))})
    assert text == (
        '{\n  "a": {\n    "x": 0.1,\n    "y": {}\n  },\n  "b": [1, 2],\n'
        '  "c": [\n    0, 1, 2, 3, 4, 5, 6, 7,\n    8, 9\n  ]\n}'
    )
    assert json.loads(text) == {"b": [1, 2], "a": {"y": {}, "x": 0.1}, "c": list(range(10))}
