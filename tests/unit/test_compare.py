"""`sppo-bench compare` on commits of a repository that is timed in a moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.environment import CHECKOUT
from benchmarks.regression.compare import recorded, trees
from benchmarks.regression.compare.measuring import read
from benchmarks.regression.compare.recorded import RecordedPair
from benchmarks.regression.compare.session import Session
from benchmarks.regression.compare.trees import Tree, TreeError, two_trees
from benchmarks.regression.targets import timed
from benchmarks.regression.targets.registry import JOBS, TARGETS
from benchmarks.regression.targets.target import Job
from tests.soak.compare_tries import made_pair
from tests.unit.compare_cases import git, make_repository


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def repository(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(trees, "CHECKOUT", made)
    return made


def compare(folder: Path, *arguments: str) -> int:
    return main(["compare", *arguments, "--targets", "engine-step", "--output", str(folder)])


@pytest.mark.parametrize(
    ("base", "head", "outcome", "code"),
    [("fast", "slow", "worse", 1), ("slow", "fast", "better", 0), ("fast", ".", "not worse", 0)],
)
def test_two_commits(
    base: str,
    head: str,
    outcome: str,
    code: int,
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "summary.md"
    assert compare(tmp_path / "out", base, head, "--json", "--markdown", str(page)) == code
    data = json.loads(capsys.readouterr().out)
    (target,) = data["targets"]
    assert (target["outcome"], data["exit_code"], target["pairs"]) == (outcome, code, 6)
    assert f"| {outcome}" in page.read_text()
    assert git(repository, "worktree", "list").count("\n") == 0
    assert main(["compare", "--judge", data["directory"], "--json"]) == code
    assert json.loads(capsys.readouterr().out) == data
    assert main(["compare", "--judge", data["directory"], "--margin", "30%"]) == 0


def test_a_dirty_checkout_is_compared_as_it_is(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = repository / "benchmarks" / "pace.py"
    text = pace.read_text()
    pace.write_text(text.replace("1.0", "1.5"))
    try:
        assert compare(tmp_path / "out", "fast") == 1
    finally:
        pace.write_text(text)
    shown = capsys.readouterr()
    assert "with changes) is compared as it is" in shown.err
    assert "1.500 to 1.500" in shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "fast"), "unknown commit 'nowhere'"),
        (("fast", "old"), "old (commit"),
        (("old", "fast"), "older than `sppo-bench compare`"),
        (("fast", "broken"), "cannot be timed: engine-step ended with 1: SyntaxError"),
        (("fast", "other-schema"), "schema 'sppo-timed/7', not 'sppo-timed/1'"),
        ((), "needs BASE"),
        (("fast", "slow", "--budget", "soon"), "--budget soon: give a time"),
        (("fast", "slow", "--margin", "much"), "--margin much: give per cent"),
        (("fast", "slow", "--judge", "x"), "leave BASE and HEAD out"),
        (("fast", "slow", "--targets", ","), "--targets names no target; known: engine-step"),
        ((str(CHECKOUT / "docs"),), "docs is a folder and no commit: name two run folders"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: tuple[str, ...],
    words: str,
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(
        ["compare", "--targets", "engine-step", "--output", str(tmp_path / "o"), *arguments]
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, words in line) == (2, True), line
    assert not (tmp_path / "o").exists()
    assert git(repository, "worktree", "list").count("\n") == 0


def test_an_unknown_target_and_a_folder_without_git_are_wrong_input(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", "fast", "--targets", "steps"]) == 2
    assert "unknown target 'steps'; known: engine-step" in capsys.readouterr().err
    monkeypatch.setattr(trees, "CHECKOUT", tmp_path)
    assert main(["compare", "fast"]) == 2
    assert "is no git checkout" in capsys.readouterr().err


def test_a_target_that_base_lacks_is_left_out_unless_it_was_asked_for(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", "fast", "slow", "--output", str(tmp_path)]
    assert main([*arguments, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert [each["target"] for each in data["targets"]] == ["engine-step"]
    assert sorted(data["left_out"]) == ["emulating", "planning"]
    assert main(["compare", "--judge", data["directory"]]) == 1
    assert "planning is left out: fast (commit" in capsys.readouterr().out
    assert main([*arguments, "--targets", "planning"]) == 2
    assert "has no target 'planning': leave it out of --targets" in capsys.readouterr().err


def test_a_target_that_head_lacks_is_worse(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    arguments = ["two-targets", "fast", "--output", str(tmp_path), "--markdown", str(page)]
    assert main(["compare", *arguments, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    outcomes = {each["target"]: each["outcome"] for each in data["targets"]}
    assert outcomes == {"engine-step": "not worse", "planning": "worse"}
    assert "- planning: fast (commit" in page.read_text()
    assert "leave" not in page.read_text()
    assert main(["compare", "--judge", data["directory"], "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == data


def test_a_page_that_cannot_be_written_is_said_before_measuring(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path / "out", "fast", "slow", "--markdown", str(tmp_path)) == 2
    assert "a folder; name a file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_costs_no_verdict(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path / "out", "fast", "slow", "--markdown", "/dev/full") == 2
    shown = capsys.readouterr()
    assert "worse" in shown.out
    assert "No space left on device" in shown.err


def test_the_users_own_worktrees_stay_registered(repository: Path, tmp_path: Path) -> None:
    """Also one whose disk is not mounted now."""
    own = tmp_path / "own"
    git(repository, "worktree", "add", "--detach", str(own), "slow")
    own.rename(tmp_path / "elsewhere")
    try:
        with two_trees("fast", "slow"):
            pass
        assert str(own) in git(repository, "worktree", "list")
    finally:
        git(repository, "worktree", "remove", "--force", str(own))


def test_worktrees_of_a_killed_comparison_are_removed_by_the_next(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from benchmarks.regression.compare.trees import two_trees\n"
        "with two_trees('fast', 'slow', Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(repository)]
    ended = subprocess.run(command, env=environment, cwd=CHECKOUT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert git(repository, "worktree", "list").count("\n") == 2
    with two_trees("fast", "slow"):
        assert git(repository, "worktree", "list").count("\n") == 2
    assert git(repository, "worktree", "list").count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_the_checkout_alone_needs_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with two_trees(".", ".", tmp_path) as (base, head):
        assert base.folder == head.folder == tmp_path


def test_worktrees_are_removed_after_an_interrupt(repository: Path) -> None:
    folders = []

    def interrupted() -> None:
        with two_trees("fast", "slow") as (base, head):
            folders.extend((base.folder, head.folder))
            assert all(folder.is_dir() for folder in folders)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(folders) == 2
    assert not any(folder.exists() for folder in folders)
    assert git(repository, "worktree", "list").count("\n") == 0


def test_a_process_must_import_its_own_tree(tmp_path: Path) -> None:
    tree = Tree(name="x", folder=tmp_path, commit=None, dirty=False)
    line = '{"schema": "sppo-timed/1", "target": "t", "least_seconds": 1, "median_seconds": 1, '
    with pytest.raises(TreeError, match="imported /elsewhere/benchmarks, not its own tree"):
        read(tree, "t", 0, line + '"repetitions": 5, "package": "/elsewhere/benchmarks"}', "")
    with pytest.raises(TreeError, match="prints no measurement of t: 'hello'"):
        read(tree, "t", 0, "hello\n", "")
    with pytest.raises(TreeError, match="has no target 'u'"):
        read(tree, "u", 2, "", "unknown target 'u'; known: t")


class Clocked:
    """Pairs that take ten seconds each; BASE takes these seconds in turns, HEAD as long."""

    def __init__(self, *base_seconds: float) -> None:
        self.now = 0.0
        self.base_seconds = base_seconds
        self.kinds: list[str] = []

    def next_pair(self, target: str, kind: recorded.Kind, number: int) -> RecordedPair:
        self.now += 10.0
        seconds = self.base_seconds[len(self.kinds) % len(self.base_seconds)]
        self.kinds.append(kind)
        return made_pair(kind, seconds, seconds, 10.0)

    def session(self) -> Session:
        return Session(next_pair=self.next_pair, margin=0.03, clock=lambda: self.now)


def test_a_a_pairs_come_first_and_time_is_shared() -> None:
    pairs = Clocked(1.0)
    verdicts = pairs.session().compare(["a", "b"], 600.0)
    assert [judged.outcome for judged in verdicts.values()] == ["not worse", "not worse"]
    assert pairs.kinds == 2 * (2 * ["a/a"] + 6 * ["a/b"])


def test_a_budget_that_is_spent_is_undecided() -> None:
    pairs = Clocked(1.0)
    judged = pairs.session().compare_target("a", 55.0)
    assert (judged.outcome, pairs.kinds) == ("undecided", ["a/a", "a/a", "a/b", "a/b", "a/b"])
    assert pairs.now <= 55.0


def test_a_noisy_machine_has_more_a_a_pairs_and_goes_on_to_pairs_in_turns() -> None:
    pairs = Clocked(*(1.1**power for power in range(30)))
    session = pairs.session()
    made = pairs.next_pair

    def uneven(target: str, kind: recorded.Kind, number: int) -> RecordedPair:
        pair = made(target, kind, number)
        seconds = pair.base.least_seconds
        return made_pair(kind, seconds, 1.05 * seconds, 10.0)

    session.next_pair = uneven
    judged = session.compare_target("a", 100.0)
    assert pairs.kinds == 4 * ["a/a"] + 5 * ["a/b"]
    assert "too noisy" in judged.reason


def test_pairs_are_read_without_a_half_written_line(tmp_path: Path) -> None:
    header = recorded.Header(base="a", head="b", margin=0.03, targets=["engine-step"])
    recorded.write_header(tmp_path, header)
    pair = made_pair("a/a", 1.0, 2.0, 3.0)
    recorded.append(tmp_path, pair)
    with (tmp_path / recorded.PAIRS_NAME).open("a") as stream:
        stream.write('{"target": "engine-st')
    assert recorded.read(tmp_path) == (header, [pair])
    with pytest.raises(recorded.RecordError, match="name a folder of `sppo-bench compare`"):
        recorded.read(tmp_path / "none")


def test_targets_have_names_of_their_own_and_a_size() -> None:
    assert not set(TARGETS) & set(JOBS)
    assert {"engine-step", "attention", "planning", "record-writing"} <= set(TARGETS)
    for name, target in (*TARGETS.items(), *JOBS.items()):
        assert name == target.name
        assert len(target.description) < 100


@pytest.mark.parametrize("name", ["simulating", "planning", "record-writing"])
def test_a_target_without_torch_can_be_repeated(name: str) -> None:
    with TARGETS[name].prepare() as repetition:
        first = repetition()
        assert first is not None
        assert repetition() == first


def test_a_timed_process_prints_its_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    assert timed.main(["simulating", "--seconds", "0"]) == 0
    measurement = json.loads(capsys.readouterr().out)
    assert 0 < measurement["least_seconds"] <= measurement["median_seconds"]
    assert measurement["repetitions"] == timed.LEAST_REPETITIONS
    assert measurement["package"] == str(CHECKOUT / "benchmarks")
    assert timed.main(["job-sppo", "--check"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "job-sppo"
    assert timed.main(["steps"]) == 2
    assert "unknown target 'steps'; known: engine-step" in capsys.readouterr().err


def test_a_job_that_fails_says_why() -> None:
    job = Job(name="wrong", description="", arguments=("run", "no-such-workload"))
    with pytest.raises(RuntimeError, match=r"exit code 2: .*unknown workload 'no-such-workload'"):
        timed.measure_job(job)
