"""Source trees of two commits: the checkout as it is, or git worktrees in a temporary folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment import CHECKOUT, git_state
from benchmarks.records.provenance import commit_words
from benchmarks.regression import git
from benchmarks.regression.git import GitError

AS_IT_IS = "."
"""The name of the checkout with all its changes."""

PREFIX = "sppo-compare"
"""Of the temporary folder of a comparison's worktrees; host and process id follow."""


class TreeError(ValueError):
    """A commit or tree that cannot be timed. The message is one line with the cure."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder whose packages are timed. name: as the user gave it. words: commit and changes."""

    name: str
    folder: Path
    commit: str | None
    dirty: bool

    @property
    def words(self) -> str:
        """ "main (commit 520ef9f91)", ". (commit 520ef9f91 with changes)", "commit 520ef9f91"."""
        commit = commit_words({"commit": self.commit, "dirty": self.dirty})
        is_hash = self.commit is not None and self.commit.startswith(self.name)
        return commit if is_hash else f"{self.name} ({commit})"


@contextmanager
def two_trees(base: str, head: str, checkout: Path | None = None) -> Iterator[tuple[Tree, Tree]]:
    """The trees of both commits, removed afterwards, also after an interrupt.

    checkout: that of this program if not given. Raises TreeError on an unknown commit, or where git
    or its repository is absent.
    """
    checkout = checkout or CHECKOUT
    names = {name: _commit(name, checkout) for name in (base, head)}
    if any(names.values()):
        _remove_left(checkout)
    prefix = f"{PREFIX}-{socket.gethostname()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        made: list[Path] = []
        try:
            trees = []
            for side, name in (("base", base), ("head", head)):
                if name == AS_IT_IS:
                    trees.append(_as_it_is(checkout))
                    continue
                path = Path(folder) / side
                made.append(path)
                _worktree(checkout, "add", "--detach", "--force", str(path), names[name])
                trees.append(Tree(name=name, folder=path, commit=names[name], dirty=False))
            yield trees[0], trees[1]
        finally:
            for path in made:
                _remove(checkout, path)


def _remove_left(checkout: Path) -> None:
    """Remove the worktrees of this host's comparisons that were killed, and no others."""
    for line in _worktree(checkout, "list", "--porcelain").splitlines():
        path = Path(line.removeprefix("worktree "))
        host, process = _owner(path.parent.name)
        if line.startswith("worktree ") and host == socket.gethostname() and _has_ended(process):
            _remove(checkout, path)
            shutil.rmtree(path.parent, ignore_errors=True)


def _owner(folder: str) -> tuple[str, int]:
    """Host and process id of a temporary folder's name; "" and 0 of any other folder."""
    name = re.fullmatch(rf"{PREFIX}-(.+)-(\d+)-[^-]+", folder)
    return (name[1], int(name[2])) if name else ("", 0)


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _as_it_is(checkout: Path) -> Tree:
    commit, dirty = git_state(checkout)
    return Tree(name=AS_IT_IS, folder=checkout, commit=commit, dirty=bool(dirty))


def _commit(name: str, checkout: Path) -> str:
    """The full hash of a commit. Raises TreeError."""
    if name == AS_IT_IS:
        return ""
    if git_state(checkout)[0] is None:
        raise TreeError(
            f"{checkout} is no git checkout, or git is missing: commits are compared in a checkout "
            "of the suite"
        )
    try:
        hashed = git.output(
            checkout, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
    except GitError:
        if Path(name).is_dir():
            raise TreeError(f"{name} is a folder and no commit: name two run folders") from None
        raise TreeError(
            f"unknown commit {name!r}: name a commit, branch or tag of {checkout}"
        ) from None
    return hashed.decode().strip()


def _worktree(checkout: Path, *arguments: str) -> str:
    """The output of `git worktree`. Raises TreeError."""
    try:
        return os.fsdecode(git.output(checkout, "worktree", *arguments))
    except GitError as error:
        raise TreeError(error) from None


def _remove(checkout: Path, path: Path) -> None:
    """Remove a worktree that may be gone already."""
    with suppress(TreeError):
        _worktree(checkout, "remove", "--force", str(path))
