"""The comparison itself: `sppo-bench run` of three systems, without wandb and without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.environment import child_environment, import_path
from benchmarks.gpu.place import Place
from benchmarks.gpu.step import Incomplete
from benchmarks.records import record as records

SYSTEMS = "sppo,megatron-same-layout,deepspeed"
END_SECONDS = 8.0
"""Of the step's limit, for the end of the command and the reading of its records."""

EXIT_CODES = (0, 1)
"""A row that failed is a record too; wrong input has none."""


def run_16k(place: Place) -> dict[str, Any]:
    """The three systems at 16K tokens."""
    return _run(place, "16K")


def run_32k(place: Place) -> dict[str, Any]:
    """The three systems at 32K tokens."""
    return _run(place, "32K")


def arguments_of(place: Place, length: str) -> list[str]:
    """The flags of `sppo-bench run`: a GPT of 1B parameters on one GPU; the smallest on a CPU."""
    if place.on_cuda:
        workload = ["--model", "gpt-1b", "--seq", length, "--gpus", "1"]
        workload += ["--hardware", place.profile]
        systems = SYSTEMS
    else:
        workload, systems = ["mini-cpu"], "sppo"
    further = ["--launches", "1", "--measured-steps", "3", "--budget", "0", "--no-wandb"]
    return ["run", *workload, "--systems", systems, *further]


def _run(place: Place, length: str) -> dict[str, Any]:
    """Rows by their status and time. Raises RuntimeError where the command wrote no record."""
    output = place.directory / f"run-{length.lower()}"
    output.mkdir(parents=True, exist_ok=True)
    before = sorted(path.parent for path in output.glob("*/run.json"))
    folder = ["--resume", str(before[-1])] if before else ["--output", str(output)]
    arguments = [*arguments_of(place, length), *folder]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *arguments],
            env=child_environment({**import_path(), "WANDB_MODE": "disabled"}),
            capture_output=True,
            text=True,
            timeout=max(1.0, place.seconds - END_SECONDS),
            check=False,
        )
    except subprocess.TimeoutExpired:
        words = f"no end after {place.seconds - END_SECONDS:.0f} s; --resume goes on"
        raise Incomplete(words, _rows(place, output)) from None
    print(done.stdout, done.stderr, sep="\n")
    if done.returncode not in EXIT_CODES or not list(output.glob("*/run.json")):
        lines = done.stderr.strip().splitlines() or ["no words"]
        raise RuntimeError(f"sppo-bench {' '.join(arguments)}: {lines[-1]}")
    return _rows(place, output)


def _rows(place: Place, output: Path) -> dict[str, Any]:
    """The rows that are recorded in the newest folder of a run."""
    folders = sorted(path.parent for path in output.glob("*/run.json"))
    if not folders or not list(folders[-1].glob(f"*/{records.FILE_NAME}")):
        return {}
    rows = [row for row in records.read_all(folders[-1]) if not row.is_reference]
    return {
        "folder": str(folders[-1].relative_to(place.directory)),
        "rows": [
            {
                "row": row.row,
                "status": row.status,
                "reason": row.reason,
                "step_seconds": row.step_seconds_median,
                "mfu_causal": row.mfu_causal,
                "kernels": None if row.kernels is None else row.kernels.attention,
            }
            for row in rows
        ],
    }
