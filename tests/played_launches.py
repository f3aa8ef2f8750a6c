"""`python -m tests.played_launches ...` is `sppo-bench ...`, whose ranks are played, not launched.

Every launch ends as `oom`, and every emulated rank too, so a command goes on to its end.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from benchmarks.__main__ import main

LAUNCHING = frozenset(
    ("run", "sweep", "ablation", "longest", "limit", "emulate", "paper", "profile")
)


def _outcome(job: Any, options: Any) -> Any:
    """The outcome of a launch, with the files that a launch writes."""
    from pathlib import Path

    from benchmarks.launch.ranks.outcome import Outcome
    from benchmarks.records import store

    store.save(Path(job.output_directory) / "job.json", job)
    return Outcome(status="oom", reason="played", reports=[])


def _role(role: Any, job: Any, time_limit_seconds: float, ended: Any) -> Any:
    from benchmarks.emulation.result import failed

    return failed(role, "oom", "played")


def _play(stack: ExitStack) -> None:
    stack.enter_context(patch("benchmarks.launch.ranks.processes.launch", _outcome))
    stack.enter_context(patch("benchmarks.emulation.processes.emulate_rank", _role))
    stack.enter_context(patch("benchmarks.worker.steady_peak.measured_peak", lambda *_: None))
    stack.enter_context(patch("benchmarks.launch.machine.watch.read_kernel", lambda _: None))
    stack.enter_context(
        patch("benchmarks.commands.measuring.profile.launch", lambda _: (1, "played"))
    )


if __name__ == "__main__":
    with ExitStack() as stack:
        if LAUNCHING & set(sys.argv[1:2]) and not {"--simulate", "--dry-run"} & set(sys.argv):
            _play(stack)
        main()
