"""`sppo-bench check`: what changed is printed with its size, and the exit code says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.regression.check import expected, gate, topics, workers
from benchmarks.regression.check.differences import compare
from benchmarks.regression.check.expected import Expected
from benchmarks.regression.check.gate import TopicResult

QUICK = "plans-unit-costs"
CASE = "PP 4, parts 1, N 8"
CHECK = ["check", "--topics", QUICK, "--expected"]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the expected values, to be changed."""
    return Path(shutil.copytree(expected.default_directory(), tmp_path / "expected"))


def plant(folder: Path, key: str, value: object, versions: dict[str, str] | None = None) -> None:
    """Accept another value, or other versions, as an honest update would write it."""
    before = expected.read(folder, QUICK)
    cases = {**before.cases, CASE: {**before.cases[CASE], key: value}}
    expected.write(folder, QUICK, Expected(cases=cases, versions=versions or before.versions))


def test_a_change_is_the_only_line_with_the_command_that_accepts_it(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*CHECK, str(copied)]) == 0
    assert capsys.readouterr().out == "topics: 1 as expected\n"
    plant(copied, "makespan", 30)
    assert main([*CHECK, str(copied)]) == 1
    accept = f"sppo-bench check --topics {QUICK} --expected {copied} --update"
    assert capsys.readouterr().out.splitlines() == [
        f"{QUICK}: {CASE}: makespan: 30 -> 33 (+10 %)",
        "topics: 1 changed",
        f"accept: {accept}",
    ]


def test_a_gain_fails_too(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(copied, "makespan", 40)
    assert main([*CHECK, str(copied)]) == 1
    assert "40 -> 33 (-17.5 %)" in capsys.readouterr().out


def test_an_update_tells_what_it_accepts(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(copied, "makespan", 30)
    assert main([*CHECK, str(copied), "--update"]) == 0
    assert "30 -> 33" in capsys.readouterr().out
    path = expected.path_of(copied, QUICK)
    assert path.read_text() == expected.path_of(expected.default_directory(), QUICK).read_text()
    assert main([*CHECK, str(copied)]) == 0


def test_an_update_without_a_change_writes_nothing(copied: Path) -> None:
    path = expected.path_of(copied, QUICK)
    before = path.stat()
    assert main([*CHECK, str(copied), "--update"]) == 0
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_failed_case_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(task: object) -> dict[str, Any]:
        raise AssertionError("bytes left\nbehind")

    values = workers.measured(broken, "task")
    assert values == {"status": "failed", "reason": "AssertionError: bytes left behind"}
    (topic,) = topics.find([QUICK])
    result = gate._written(topic, {"case": values}, tmp_path)
    assert result.outcome == "not written"
    assert "bytes left behind" in result.reason
    assert gate.exit_code([result]) == 1
    assert not list(tmp_path.iterdir())


def test_a_difference_under_other_versions_is_skipped_and_nothing_compared_is_no_success(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(copied, "makespan", 33, versions={"python": "2.7"})
    assert main([*CHECK, str(copied)]) == 0, "equal values under other versions"
    plant(copied, "makespan", 30, versions={"python": "2.7"})
    capsys.readouterr()
    assert main([*CHECK, str(copied)]) == 2
    shown = capsys.readouterr()
    assert "skipped: 1 values differ, but the file was made with" in shown.err
    assert "python 2.7 (here 3." in shown.err
    assert "nothing was compared" in shown.out


def test_counts_of_other_versions_are_not_even_measured(copied: Path) -> None:
    (topic,) = topics.find(["emulations"])
    old = expected.versions_here(topic.libraries) | {"torch": "1.0"}
    expected.write(copied, topic.name, Expected(cases={}, versions=old))
    (result,) = gate.check([topic], copied, update=False)
    assert result.outcome == "skipped"
    assert result.reason.startswith("made with torch 1.0 (here ")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text.replace('"makespan": 33', '"makespan": 34', 1), "edited by hand"),
        (lambda text: text.replace('"python": "3.', '"python": "4.', 1), "edited by hand"),
        (lambda text: text.replace("sppo-expected/2", "sppo-expected/1"), "sppo-expected/1"),
        (lambda text: text[:-30], "no JSON"),
        (lambda text: "[]", "no file of sppo-expected/2"),
    ],
)
def test_a_damaged_file_is_one_line(
    copied: Path, capsys: pytest.CaptureFixture[str], damage: Any, words: str
) -> None:
    path = expected.path_of(copied, QUICK)
    path.write_text(damage(path.read_text()))
    assert main([*CHECK, str(copied)]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert words in shown.err
    assert "make it anew with --update" in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topics", "planes"], "unknown topic 'planes'; known: plans-unit-costs"),
        (["--topics", QUICK, "--expected", "absent"], "make it with --update"),
        (["--topics", QUICK, "--expected", "/dev/null/x", "--update"], "can be written"),
        (["--topics", QUICK, "--lines", "0"], "--lines 0: it must be at least 1"),
        (["--topics", QUICK, "--json", "absent/x.json"], "no folder absent; make it first"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert words in shown.err


def test_the_files_for_programs_and_for_a_step_summary(copied: Path, tmp_path: Path) -> None:
    plant(copied, "makespan", 30)
    result, page = tmp_path / "check.json", tmp_path / "summary.md"
    page.write_text("before\n")
    assert main([*CHECK, str(copied), "--json", str(result), "--markdown", str(page)]) == 1
    document = json.loads(result.read_text())
    assert (document["schema"], document["exit_code"]) == ("sppo-check/1", 1)
    (topic,) = document["topics"]
    assert (topic["topic"], topic["outcome"]) == (QUICK, "changed")
    (difference,) = topic["differences"]
    assert difference == {
        "case": CASE,
        "key": "makespan",
        "old": 30,
        "new": 33,
        "share": pytest.approx(0.1),
        "more": 0,
    }
    text = page.read_text()
    assert text.startswith("before\n## sppo-bench check")
    assert f"| {QUICK} | changed | 118 | 1 |" in text
    assert f"Accept: `{document['accept']}`" in text


def test_exit_codes() -> None:
    def code(*outcomes: Any) -> int:
        return gate.exit_code([TopicResult(topic="x", outcome=outcome) for outcome in outcomes])

    assert code("as expected", "skipped") == 0
    assert code("as expected", "skipped", "changed") == 1
    assert code("written", "not written") == 1
    assert code("skipped", "skipped") == 2


def test_a_nightly_topic_is_asked_for() -> None:
    night = {topic.name for topic in topics.TOPICS if topic.nightly}
    assert night
    assert not night & {topic.name for topic in topics.find([])}
    assert not night & {topic.name for topic in topics.find(["emulations"])}
    assert night <= {topic.name for topic in topics.find([], full=True)}
    for name in night:
        assert [topic.name for topic in topics.find([name])] == [name]


def test_a_file_is_sorted_and_its_lists_lie_in_rows() -> None:
    text = expected.to_text({"b": [1, 2], "a": {"y": {}, "x": 0.1}, "c": list(range(10))})
    assert text == (
        '{\n  "a": {\n    "x": 0.1,\n    "y": {}\n  },\n  "b": [1, 2],\n'
        '  "c": [\n    0, 1, 2, 3, 4, 5, 6, 7,\n    8, 9\n  ]\n}'
    )
    assert json.loads(text) == {"b": [1, 2], "a": {"y": {}, "x": 0.1}, "c": list(range(10))}


def test_every_topic_has_its_file() -> None:
    directory = expected.default_directory()
    names = {topic.name for topic in topics.TOPICS}
    assert {path.stem for path in directory.glob("*.json")} == names
    assert all(expected.read(directory, name).cases for name in names)


def test_margins_are_for_their_own_keys() -> None:
    old = {"case": {"calls": {"sppo.plan": 1000}, "operators": {"aten.mm": 1000}}}
    new = {"case": {"calls": {"sppo.plan": 1009}, "operators": {"aten.mm": 1001}}}
    (topic,) = topics.find(["emulations"])
    keys = [difference.key for difference in compare(old, new, topic.tolerances)]
    assert keys == ["operators.aten.mm"]
