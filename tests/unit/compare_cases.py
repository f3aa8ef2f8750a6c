"""A git repository whose commits can be timed in a twentieth of a second, and made pairs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.regression.compare.paired import Pair

TIMED = """
import json, pathlib, sys
from benchmarks import pace
known = getattr(pace, "TARGETS", ["engine-step"])
if sys.argv[1] not in known:
    print(f"unknown target {sys.argv[1]!r}; known: {', '.join(known)}", file=sys.stderr)
    sys.exit(2)
print(json.dumps({
    "schema": pace.SCHEMA,
    "target": sys.argv[1],
    "least_seconds": pace.SECONDS,
    "median_seconds": 2 * pace.SECONDS,
    "repetitions": 5,
    "package": str(pathlib.Path(__file__).resolve().parents[2]),
}))
"""
"""In place of `benchmarks.regression.targets.timed`: the seconds are those of pace.py."""


def pairs(base: list[float], head: list[float]) -> list[Pair]:
    return [Pair(base_seconds=a, head_seconds=b) for a, b in zip(base, head, strict=True)]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a test", "-c", "user.email=a@b.invalid"]
    ended = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    return ended.stdout.strip()


def make_repository(folder: Path) -> Path:
    """Tags: `fast` and `slow` (by a fifth), `two-targets`, `old` without the module, `broken`,
    `other-schema`."""
    package = folder / "benchmarks" / "regression" / "targets"
    package.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for path in (package, package.parent, package.parent.parent):
        (path / "__init__.py").touch()
    pace = folder / "benchmarks" / "pace.py"
    _commit(folder, "old", pace, "SECONDS = 1.0\n")
    (package / "timed.py").write_text(TIMED)
    _commit(folder, "fast", pace, 'SECONDS = 1.0\nSCHEMA = "sppo-timed/1"\n')
    _commit(folder, "slow", pace, 'SECONDS = 1.2\nSCHEMA = "sppo-timed/1"\n')
    targets = 'TARGETS = ["engine-step", "planning"]\n'
    _commit(folder, "two-targets", pace, 'SECONDS = 1.0\nSCHEMA = "sppo-timed/1"\n' + targets)
    _commit(folder, "other-schema", pace, 'SECONDS = 1.2\nSCHEMA = "sppo-timed/7"\n')
    _commit(folder, "broken", pace, "SECONDS = = 1\n")
    git(folder, "checkout", "--quiet", "fast")
    return folder


def _commit(folder: Path, tag: str, pace: Path, text: str) -> None:
    pace.write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", tag)
    git(folder, "tag", tag)
