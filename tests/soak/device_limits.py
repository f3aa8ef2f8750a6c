"""Do SPPO's plans fit the device they are made for? Many real launches under many limits.

    python -m tests.soak.device_limits --launches 20 --output results/published/proofs/NAME.json

A launch ends after its accounted step, the one under the limit. With --load as many processes as
the machine has cores compute beside the launches. Exits 1 if a launch ended other than ok, or if
more than twice what was seen is planned beside tracked tensors.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.environment import describe_environment
from benchmarks.launch import run
from benchmarks.launch.progress import Lines
from benchmarks.records import store
from benchmarks.records.record import Record
from benchmarks.rows import assign
from benchmarks.rows import row as row_module
from sppo.config.sizes import MIB

BUSY = "import torch; a = torch.ones(700, 700)\nwhile True: a @ a"


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that multiply matrices, ended afterwards."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def launches(workload_name: str, limit_bytes: int, count: int, folder: Path) -> list[Record]:
    """So many launches of SPPO's own plan under one limit."""
    workload = workloads.find(workload_name).with_device_memory(limit_bytes)
    options = run.Options(launches=count, warmup_steps=0, measured_steps=0)
    inputs = run.prepare(workload, options, folder)
    try:
        (row,) = row_module.find(["sppo"])
        assignment = assign.assign(row, workload)
        numbers = range(1, count + 1)
        return [run.launch_row(inputs, assignment, number, options, Lines()) for number in numbers]
    finally:
        run.remove_inputs(inputs)


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
    told = parser.parse_args()
    found = []
    with load(told.load), tempfile.TemporaryDirectory() as parent:
        for limit in range(told.first, told.last + 1, told.step):
            folder = Path(parent) / str(limit)
            folder.mkdir()
            done = launches(told.workload, limit * MIB, told.launches, folder)
            beside = {"load_average_5_minutes": round(os.getloadavg()[1], 1)}
            found.append({**summary(limit * MIB, done), **beside})
            print(found[-1], flush=True)
    report = {
        "schema": "sppo-proof/1",
        "what": "SPPO's launches under device limits",
        "label": "measured",
        "workload": told.workload,
        "busy_processes_beside": told.load,
        "environment": describe_environment(),
        "limits": found,
    }
    if told.output:
        told.output.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(told.output, store.to_json(report))
    ratios = [ratio for entry in found for ratio in entry["planned_over_seen"] if ratio]
    bad = [entry for entry in found if entry["ok"] < entry["launches"]]
    print(f"{len(found) - len(bad)} of {len(found)} limits held; planned over seen: {ratios}")
    return int(bool(bad) or max(ratios, default=0) > 2)


if __name__ == "__main__":
    sys.exit(main())
