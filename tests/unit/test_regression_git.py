"""Git for the comparison and the history: commits and files, and what git refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.regression import git


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One commit with the file `a`, which differs from the working tree's."""
    (tmp_path / "a").write_text("committed")
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for arguments in (["init", "-q"], ["add", "a"], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    (tmp_path / "a").write_text("changed")
    return tmp_path


def test_a_commits_date_is_in_utc_and_its_files_are_as_they_were(checkout: Path) -> None:
    commit = git.output(checkout, "rev-parse", "HEAD").decode().strip()
    date = git.commit_date(commit, checkout)
    assert len(date) == len("2026-11-28T10:00:00Z")
    assert date.endswith("Z")
    assert git.file_at(commit, "a", checkout) == b"committed"
    assert git.commit_date("", checkout) == git.commit_date("f" * 40, checkout) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", f"{'f' * 40}:a"), "^git show failed: fatal: .*ffff"),
        (("rev-parse", "--verify", "--quiet", "nowhere"), "^git rev-parse failed: no reason given"),
    ],
)
def test_a_refusal_is_one_line(arguments: tuple[str, ...], words: str, checkout: Path) -> None:
    with pytest.raises(git.GitError, match=words) as raised:
        git.output(checkout, *arguments)
    assert "\n" not in str(raised.value)


def test_without_git_nothing_is_known(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(git.GitError, match="install git"):
        git.output(checkout, "status")
    assert git.commit_date("f" * 40, checkout) == ""
