"""Do SPPO's plans fit the device they are made for? Many real launches under many limits.

    python -m tests.soak.device_limits --launches 20 --output results/published/proofs/NAME.json

A launch ends after its accounted step, the one under the limit. With --load as many processes as
the machine has cores compute beside the launches. Exits 1 if a launch ended other than ok, or if
more than twice what was seen is planned beside tracked tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import workloads
from benchmarks.environment import describe_environment
from benchmarks.launch import preparing, run
from benchmarks.launch.progress import Lines
from benchmarks.launch.ranks import processes
from benchmarks.records import store
from benchmarks.records.record import Record
from benchmarks.rows import assign
from benchmarks.rows import row as row_module
from sppo.config.sizes import MIB
from tests.soak import forked
from tests.soak.neighbours import neighbours

BUSY = "import torch; a = torch.ones(700, 700)\nwhile True: a @ a"


def load(processes: int) -> AbstractContextManager[None]:
    """So many processes that multiply matrices, ended afterwards."""
    return neighbours(BUSY, range(processes))


def launches(workload_name: str, limit_bytes: int, count: int, folder: Path) -> list[Record]:
    """So many launches of SPPO's own plan under one limit."""
    workload = workloads.find(workload_name).with_device_memory(limit_bytes)
    options = run.Options(launches=count, warmup_steps=0, measured_steps=0)
    inputs = preparing.prepare(workload, options, folder)
    try:
        (row,) = row_module.find(["sppo"])
        assignment = assign.assign(row, workload)
        numbers = range(1, count + 1)
        return [run.launch_row(inputs, assignment, number, options, Lines()) for number in numbers]
    finally:
        preparing.remove_inputs(inputs)


def summary(limit_bytes: int, done: Sequence[Record]) -> dict[str, Any]:
    """Ends, and per rank what is planned beside tracked tensors and what was seen, in bytes."""
    plan = done[0].plan or {}
    planned = plan.get("predicted_untracked_bytes", [])
    ranks = [
        [record.memory[rank].untracked_peak_bytes or 0 for record in done if record.status == "ok"]
        for rank in range(len(planned))
    ]
    return {
        "limit_bytes": limit_bytes,
        "launches": len(done),
        "ok": sum(record.status == "ok" for record in done),
        "reasons": sorted({record.reason for record in done if record.reason}),
        "settings_text": done[0].settings_text,
        "predicted_peak_bytes": plan.get("predicted_peak_bytes"),
        "planned_untracked_bytes": planned,
        "seen_untracked_bytes": [[min(row), max(row)] if row else None for row in ranks],
        "planned_over_seen": [
            round(size / max(row), 3) if row else None
            for size, row in zip(planned, ranks, strict=True)
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="tiny-cpu")
    parser.add_argument("--first", type=int, default=92, help="MiB")
    parser.add_argument("--last", type=int, default=200, help="MiB")
    parser.add_argument("--step", type=int, default=12, help="MiB")
    parser.add_argument("--launches", type=int, default=20)
    parser.add_argument("--load", type=int, default=0, metavar="PROCESSES")
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--forked", action="store_true", help="ranks forked from this process, not by torchrun"
    )
    asked = parser.parse_args()
    limits: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if asked.forked:
            forked.prepare()
            stack.enter_context(patch.object(processes, "launch", forked.launch))
        stack.enter_context(load(asked.load))
        parent = stack.enter_context(tempfile.TemporaryDirectory())
        for limit in range(asked.first, asked.last + 1, asked.step):
            folder = Path(parent) / str(limit)
            folder.mkdir()
            done = launches(asked.workload, limit * MIB, asked.launches, folder)
            how = {
                "commit": (describe_environment()["commit"] or "unknown")[:7],
                "ranks": "forked" if asked.forked else "torchrun",
                "load_average_5_minutes": round(os.getloadavg()[1], 1),
            }
            limits.append({**summary(limit * MIB, done), **how})
            print(limits[-1], flush=True)
            if asked.output:
                write(asked.output, asked.workload, asked.load, limits)
    ratios = [ratio for entry in limits for ratio in entry["planned_over_seen"] if ratio]
    bad = [entry for entry in limits if entry["ok"] < entry["launches"]]
    print(f"{len(limits) - len(bad)} of {len(limits)} limits held; planned over seen: {ratios}")
    return int(bool(bad) or max(ratios, default=0) > 2)


def write(path: Path, workload: str, busy: int, limits: Sequence[dict[str, Any]]) -> None:
    """The proof so far; limits that were measured before into the same file stay."""
    report = {
        "schema": "sppo-proof/1",
        "what": "SPPO's launches under device limits",
        "label": "measured",
        "workload": workload,
        "busy_processes_beside": busy,
        "environment": describe_environment(),
    }
    measured = {entry["limit_bytes"] for entry in limits}
    before = json.loads(path.read_bytes())["limits"] if path.exists() else []
    rest = [entry for entry in before if entry["limit_bytes"] not in measured]
    entries = sorted([*rest, *limits], key=lambda entry: int(entry["limit_bytes"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(path, store.to_json({**report, "limits": entries}))


if __name__ == "__main__":
    sys.exit(main())
