"""`sppo-bench check`: what changed is printed with its size, and the exit code says so."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.regression.check import cases, expected, gate, topics, workers
from benchmarks.regression.check.expected import Expected
from benchmarks.regression.check.gate import TopicResult

QUICK = "plans-unit-costs"
CASE = "PP 4, parts 1, N 8"
CHECK = ["check", "--topics", QUICK, "--expected"]


PIPELINES = cache(cases.unit_pipelines)


@pytest.fixture(autouse=True)
def simulated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines in unit costs: these tests ask for them again and again."""
    monkeypatch.setattr(cases, "unit_pipelines", PIPELINES)


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


def test_a_failed_case_is_not_accepted(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("name", "values", "outcome"),
    [
        ("gloo", {"status": "host_oom", "reason": "no memory"}, "not written"),
        ("gloo", {"status": "unavailable"}, "not written"),
        ("emulations", {"status": "oom"}, "not written"),
        ("gloo", {"status": "ok", "loss": [float("nan")]}, "not written"),
        ("plans-named", {"status": "infeasible"}, "written"),
        ("gloo", {"status": "ok", "loss": [1.0]}, "written"),
    ],
)
def test_what_an_update_writes(
    name: str, values: dict[str, Any], outcome: str, tmp_path: Path
) -> None:
    (topic,) = topics.find([name])
    result = gate._written(topic, {"case": values}, tmp_path)
    assert result.outcome == outcome
    assert len(list(tmp_path.iterdir())) == (outcome == "written")


def test_a_plan_that_differs_under_another_python_is_a_change(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(copied, "makespan", 33, versions={"python": "2.7"})
    assert main([*CHECK, str(copied)]) == 0, "equal values under other versions"
    plant(copied, "makespan", 30, versions={"python": "2.7"})
    capsys.readouterr()
    assert main([*CHECK, str(copied)]) == 1
    difference, note, *_ = capsys.readouterr().out.splitlines()
    assert difference == f"{QUICK}: {CASE}: makespan: 30 -> 33 (+10 %)"
    assert "1 differ; the file was made with python 2.7 (here 3." in note
    assert note.endswith("a possible cause")


def skip_emulations(folder: Path) -> None:
    """Have another torch make the emulations, so that they cannot be compared."""
    (topic,) = topics.find(["emulations"])
    old = expected.versions_here(topic.libraries) | {"torch": "1.0"}
    expected.write(folder, topic.name, Expected(cases={}, versions=old))


def test_a_skipped_topic_is_no_success_unless_that_is_allowed(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_emulations(copied)
    some = ["check", "--topics", f"{QUICK},emulations", "--expected", str(copied)]
    assert main(some) == 3
    assert "--allow-skips" in capsys.readouterr().out
    assert main([*some, "--allow-skips"]) == 0
    every = ["check", "--topics", "emulations", "--expected", str(copied), "--allow-skips"]
    capsys.readouterr()
    assert main(every) == 3
    assert "nothing was compared" in capsys.readouterr().out


def test_a_build_of_the_same_version_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    (topic,) = topics.find(["emulations"])
    made = expected.read(expected.default_directory(), topic.name)
    for label in ("", "+cpu", "+cu130"):
        installed = {name: version + label for name, version in made.versions.items()}
        monkeypatch.setattr(expected, "library_versions", lambda versions=installed: versions)
        assert expected.versions_here(["torch"])["torch"] == made.versions["torch"]
        assert "+" not in made.versions["torch"]


def test_counts_of_other_versions_are_not_even_measured(copied: Path) -> None:
    skip_emulations(copied)
    (result,) = gate.check(topics.find(["emulations"]), copied, update=False)
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
        (["--topics", QUICK, "--json", "."], ".: a folder; name a file"),
        (["--topics", QUICK, "--markdown", "."], ".: a folder; name a file"),
        (["--topics", QUICK, "--json", "/dev/null"], "no regular file"),
        (["--topics", ","], "--topics ',' names no topic"),
        (["--topics", " ", "--update"], "--topics ' ' names no topic"),
        (["--topics", QUICK, "--full"], "--topics names none: name emulations"),
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


@pytest.mark.parametrize(
    ("outcomes", "code", "allowed"),
    [
        (("as expected", "skipped"), 3, 0),
        (("as expected", "skipped", "changed"), 1, 1),
        (("as expected", "failed"), 1, 1),
        (("written", "not written"), 1, 1),
        (("skipped", "skipped"), 3, 3),
        (("as expected", "written"), 0, 0),
    ],
)
def test_exit_codes(outcomes: list[Any], code: int, allowed: int) -> None:
    results = [TopicResult(topic="x", outcome=outcome) for outcome in outcomes]
    assert gate.exit_code(results) == code
    assert gate.exit_code(results, allow_skips=True) == allowed


def test_a_nightly_topic_is_asked_for() -> None:
    night = {topic.name for topic in topics.TOPICS if topic.nightly}
    assert night
    assert not night & {topic.name for topic in topics.find([])}
    assert not night & {topic.name for topic in topics.find(["emulations"])}
    assert night <= {topic.name for topic in topics.find([], full=True)}
    for name in night:
        assert [topic.name for topic in topics.find([name])] == [name]
    full = [topic.name for topic in topics.find(["emulations"], full=True)]
    assert full == ["emulations", "emulations-full"]


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
