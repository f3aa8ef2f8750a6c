"""What git knows of a commit: its date, and files as they were."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def commit_date(commit: str, checkout: Path) -> str:
    """When the commit was made, ISO 8601 in UTC; "" where the checkout does not know it."""
    if not commit:
        return ""
    date_format = "--date=format-local:%Y-%m-%dT%H:%M:%SZ"
    try:
        output = _git(checkout, "show", "-s", date_format, "--format=%cd", commit, "--")
    except ValueError:
        return ""
    return output.decode().strip()


def file_at(commit: str, name: str, checkout: Path) -> bytes:
    """The file at that commit. Raises ValueError where the checkout does not know it."""
    return _git(checkout, "show", f"{commit}:{name}")


def _git(checkout: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            capture_output=True,
            timeout=20,
            check=True,
            env={**os.environ, "TZ": "UTC"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(str(error)) from None
    return done.stdout
