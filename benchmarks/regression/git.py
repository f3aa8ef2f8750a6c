"""Git for `compare` and `history`: any command, the date of a commit, and files as they were."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LIMIT_SECONDS = 60
"""A new worktree of a large repository takes some seconds."""


class GitError(ValueError):
    """Git is missing or refused. The message is one line."""


def output(checkout: Path, *arguments: str) -> bytes:
    """What `git -C checkout` prints; dates are in UTC. Raises GitError."""
    try:
        ended = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_SECONDS,
            check=False,
            env={**os.environ, "TZ": "UTC"},
        )
    except OSError as error:
        raise GitError(f"git cannot be run ({error.strerror}): install git") from None
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} took over {LIMIT_SECONDS} s: {checkout}") from None
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        words = lines[-1] if lines else "no reason given"
        raise GitError(f"git {arguments[0]} failed: {words}")
    return ended.stdout


def commit_date(commit: str, checkout: Path) -> str:
    """When the commit was made, ISO 8601 in UTC; "" where the checkout does not know it."""
    if not commit:
        return ""
    date_format = "--date=format-local:%Y-%m-%dT%H:%M:%SZ"
    try:
        date = output(checkout, "show", "-s", date_format, "--format=%cd", commit, "--")
    except GitError:
        return ""
    return date.decode().strip()


def file_at(commit: str, name: str, checkout: Path) -> bytes:
    """The file at that commit. Raises GitError where the checkout does not know it."""
    assert commit, "git would read the index"
    return output(checkout, "show", f"{commit}:{name}")
