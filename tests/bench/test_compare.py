"""A real comparison of two worktrees, ended by a signal: nothing is left, the pairs are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.environment import CHECKOUT, git_state, import_path
from benchmarks.regression.compare import recorded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(git_state(CHECKOUT)[0] is None, reason="no git checkout"),
]

PATIENCE_SECONDS = 200.0


def worktrees() -> str:
    command = ["git", "-C", str(CHECKOUT), "worktree", "list"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_comparison_that_is_ended_leaves_its_pairs_only(tmp_path: Path) -> None:
    before = worktrees()
    temporary, output = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    command = [sys.executable, "-m", "benchmarks", "compare"]
    process = subprocess.Popen(
        [*command, "HEAD", "HEAD", "--targets", "simulating", "--output", str(output)],
        env={**os.environ, **import_path(), "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        while not (files := list(output.rglob(recorded.PAIRS_NAME))):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        assert list(temporary.glob("sppo-compare-*/head/benchmarks"))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert f"pairs so far: {files[0].parent}" in errors
    assert list(temporary.iterdir()) == []
    assert worktrees() == before
    header, done = recorded.read(files[0].parent)
    assert done
    assert header.base == header.head
    assert {pair.base.target for pair in done} == {"simulating"}


REPEATED = """
import sys
from benchmarks.regression.targets.registry import TARGETS
for name in sys.argv[1:]:
    with TARGETS[name].prepare() as repetition:
        for _ in range(3):
            repetition()
    print(name)
"""


@pytest.mark.soak
def test_targets_with_torch_can_be_repeated() -> None:
    """In a process of its own: a target sets the number of threads."""
    names = ["engine-step", "attention", "stage-forward", "stage-backward"]
    environment = {**os.environ, **import_path()}
    ended = subprocess.run(
        [sys.executable, "-c", REPEATED, *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.split() == names, ended.stderr
