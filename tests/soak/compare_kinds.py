"""The kinds of a comparison's proof: identical code, quiet or beside load, and a slow-down."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from benchmarks.environment import CHECKOUT
from tests.soak.noise import neighbour

KINDS = ("quiet", "bursty", "slow-down")
"""Identical code; the same beside a bursty neighbour; a HEAD whose engine is 10 % slower."""

ENGINE = Path("sppo") / "engine" / "engine.py"

BEGIN = "        self._reset(tokens, scale)\n        kv_moved_before"
END = "        return self.counters\n\n    def _wait("
PLANTED = (
    (BEGIN, f"        began = time.perf_counter_ns()\n{BEGIN}"),
    (
        END,
        "        enough = time.perf_counter_ns() + (time.perf_counter_ns() - began) // 10\n"
        "        while time.perf_counter_ns() < enough:\n"
        f"            pass\n{END}",
    ),
)
"""The engine computes nothing for another tenth of its step."""


def end_cleanly() -> None:
    """TERM ends this program as Ctrl-C does: its worktrees are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def load(kind: str, seed: int) -> AbstractContextManager[None]:
    """The neighbour of this kind: a process a core, idle and busy in random bursts."""
    return neighbour(len(os.sched_getaffinity(0)), seed) if kind == "bursty" else nullcontext()


def slowed(source: str) -> str:
    """The engine's source with the planted slow-down."""
    for before, after in PLANTED:
        assert source.count(before) == 1, f"no place for the slow-down in {ENGINE}"
        source = source.replace(before, after)
    return source


@contextmanager
def head_of(kind: str, base: str) -> Iterator[str]:
    """A commit to compare with BASE: BASE itself, or a commit with the slow-down, on no branch."""
    if kind != "slow-down":
        yield base
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "planted"
        _git(CHECKOUT, "worktree", "add", "--detach", str(tree), base)
        try:
            engine = tree / ENGINE
            engine.write_text(slowed(engine.read_text()))
            author = ("-c", "user.name=a proof", "-c", "user.email=proof@example.invalid")
            _git(tree, *author, "commit", "--no-verify", "-qam", "A planted slow-down of 10 %")
            yield _git(tree, "rev-parse", "HEAD")
        finally:
            _git(CHECKOUT, "worktree", "remove", "--force", str(tree))


def commit_of(name: str) -> str:
    """The full hash of a commit."""
    return _git(CHECKOUT, "rev-parse", "--verify", name)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
