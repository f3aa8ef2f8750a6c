"""Does a table ever claim a wrong ratio beside a bursty neighbour? Many real runs with and without.

    python -m tests.soak.noise --output results/published/proofs/noise.json

First runs on a quiet machine: the median ratio over all their pairs of launches is the truth. Then
runs beside processes that burn random cores in random bursts. Exits 1 if a ratio of a row that is
not marked (`noisy`, `unsettled`) is further than 5 % from the truth. Use a machine without other
load. With `--folder DIR` a stopped proof goes on: runs that ended there are read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environment import describe_environment
from benchmarks.records import store
from benchmarks.records.bootstrap import ratio_interval
from benchmarks.records.claim import LEAST_PAIRS, yardstick
from benchmarks.records.metrics import measured_seconds
from benchmarks.records.record import Record, grouped, read_all
from benchmarks.records.timing import TOLERANCE
from benchmarks.reporting import tables
from tests.soak.neighbours import neighbours

BURSTS = """
import os, random, sys, time
chance = random.Random(int(sys.argv[1]))
cores = sorted(os.sched_getaffinity(0))
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(chance.expovariate(1 / 4))
    os.sched_setaffinity(0, {chance.choice(cores)})
    end = time.monotonic() + chance.expovariate(1 / 2)
    while time.monotonic() < end:
        sum(range(20_000))
"""
"""A process that is idle for 4 s on average, then burns a random core for 2 s on average."""


QUESTION = ("workload", "system", "neighbours", "measured_steps", "budget")
"""What runs that are pooled have in common."""

TIME_LIMIT_SECONDS = 300.0
"""Of a launch: also on a machine that is far too busy it ends."""


def neighbour(processes: int, seed: int) -> AbstractContextManager[None]:
    """So many bursty processes, ended afterwards."""
    return neighbours(BURSTS, [1000 * seed + number for number in range(processes)])


def run(asked: argparse.Namespace, folder: Path) -> tuple[list[Record], float]:
    """The records and the seconds of one `sppo-bench run`; a run that has ended is read."""
    ended = folder.with_suffix(".seconds")
    if not ended.exists():
        if folder.exists():
            shutil.rmtree(folder)
        seconds = launched_seconds(asked, folder)
        if len(list(folder.iterdir())) != 1:
            raise RuntimeError(f"`sppo-bench run` has left no run in {folder}")
        store.write_bytes(ended, str(seconds).encode())
    (directory,) = folder.iterdir()
    return read_all(directory), float(ended.read_text())


def launched_seconds(asked: argparse.Namespace, folder: Path) -> float:
    """The seconds of one `sppo-bench run`, in a process of its own.

    A launch may fail beside a neighbour: its row then claims nothing, which is an answer too. A
    neighbour that were a child of the launching process would count as its own load.
    """
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks", "run", asked.workload, "--no-wandb", "--json"]
    command += ["--systems", f"sppo,{asked.system}", "--output", str(folder)]
    command += ["--measured-steps", str(asked.measured_steps), "--budget", str(asked.budget)]
    command += ["--launches", str(LEAST_PAIRS)]
    command += ["--time-limit", str(TIME_LIMIT_SECONDS)]
    started = time.monotonic()
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


@contextmanager
def folder_of_runs(folder: Path | None, question: dict[str, Any]) -> Iterator[Path]:
    """The given folder, which is kept, or a temporary one. A kept one has one question's runs."""
    if folder is None:
        with tempfile.TemporaryDirectory() as parent:
            yield Path(parent)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "asked.json"
        if known.exists() and json.loads(known.read_text()) != question:
            raise SystemExit(f"{folder} has runs of another question: {known.read_text()}")
        store.write_bytes(known, json.dumps(question).encode())
        yield folder


def pairs(done: Sequence[Record]) -> list[tuple[list[float], list[float]]]:
    """Steps of the peer and of SPPO, of launches that ran next to each other."""
    done = [record for record in done if record.status == "ok"]
    beside = {record.launch: measured_seconds(record.steps) for record in yardstick(done)}
    rows = grouped(done, "row").values()
    return [
        (measured_seconds(record.steps), beside[record.launch])
        for launches in rows
        if launches[0].system != "sppo"
        for record in launches
        if record.launch in beside
    ]


def entry(done: Sequence[Record], seconds: float) -> dict[str, Any]:
    """Verdicts and ratio of a run, and the ratio of all its pairs, which nobody claims."""
    (peer,) = (row for row in tables.summaries(done) if row.system != "sppo")
    timing = {row.row: row.timing for row in tables.summaries(done)}
    ratios = [statistics.median(row) / statistics.median(sppo) for row, sppo in pairs(done)]
    states = [record.machine_state for record in done if record.machine_state is not None]
    return {
        "status": {row.row: row.status for row in tables.summaries(done)},
        "timing": timing,
        "reason": peer.timing_reason,
        "claimed": peer.sppo_speed_up,
        "interval": [peer.sppo_speed_up_low, peer.sppo_speed_up_high],
        "marked": set(timing.values()) != {"steady"},
        "ratio_of_all_launches": statistics.median(ratios) if ratios else None,
        "launches": len(done),
        "commits": sorted({record.environment["commit"] for record in done}),
        "seconds": round(seconds, 1),
        "most_taken_share": max((state.taken_share for state in states), default=None),
    }


def judged(entry: dict[str, Any], truth: float) -> dict[str, Any]:
    """The entry with its distances from the pooled ratio of the quiet runs, as shares."""
    claimed, unclaimed = entry["claimed"], entry["ratio_of_all_launches"]
    return {
        **entry,
        "claim_off": None if claimed is None else claimed / truth - 1,
        "unclaimed_off": None if unclaimed is None else unclaimed / truth - 1,
    }


def report(
    asked: argparse.Namespace,
    quiet: Sequence[dict[str, Any]],
    busy: Sequence[dict[str, Any]],
    truth: float,
) -> dict[str, Any]:
    """The proof so far."""
    runs = [judged(entry, truth) for entry in busy]
    wrong = [entry for entry in runs if _far(entry["claim_off"])]
    return {
        "schema": "sppo-proof/1",
        "what": "ratios claimed beside a bursty neighbour",
        "label": "measured",
        "workload": asked.workload,
        "neighbours": asked.neighbours,
        "measured_steps": asked.measured_steps,
        "budget_seconds": asked.budget,
        "tolerance": TOLERANCE,
        "pooled_ratio": truth,
        "quiet_runs": len(quiet),
        "busy_runs": len(runs),
        "busy_claims": sum(entry["claimed"] is not None for entry in runs),
        "busy_marked": sum(entry["marked"] for entry in runs),
        "wrong_unmarked": sum(not entry["marked"] for entry in wrong),
        "wrong_marked": sum(entry["marked"] for entry in wrong),
        "wrong_without_the_rule": sum(_far(entry["unclaimed_off"]) for entry in runs),
        "environment": describe_environment(),
        "quiet": [judged(entry, truth) for entry in quiet],
        "busy": runs,
    }


def _far(off: float | None) -> bool:
    return off is not None and abs(off) > TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="mini-cpu")
    parser.add_argument("--system", default="megatron-same-layout", help="the peer's row")
    parser.add_argument("--quiet", type=int, default=10, help="runs without neighbour")
    parser.add_argument("--busy", type=int, default=20, help="runs beside the neighbour")
    parser.add_argument("--neighbours", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--measured-steps", type=int, default=30)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of a run")
    parser.add_argument("--folder", type=Path, help="keeps the runs; a stopped proof goes on")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    quiet: list[dict[str, Any]] = []
    busy: list[dict[str, Any]] = []
    pooled: list[tuple[list[float], list[float]]] = []
    question = {name: value for name, value in vars(asked).items() if name in QUESTION}
    with folder_of_runs(asked.folder, question) as parent:
        for number in range(asked.quiet):
            done, seconds = run(asked, parent / f"quiet-{number}")
            quiet.append(entry(done, seconds))
            pooled += pairs(done)
            print("quiet", quiet[-1], flush=True)
        truth = ratio_interval(pooled).median
        for number in range(asked.busy):
            with neighbour(asked.neighbours, number):
                done, seconds = run(asked, parent / f"busy-{number}")
            busy.append(entry(done, seconds))
            print("busy", judged(busy[-1], truth), flush=True)
            if asked.output:
                store.save(asked.output, report(asked, quiet, busy, truth))
    proof = report(asked, quiet, busy, truth)
    print({name: value for name, value in proof.items() if isinstance(value, int | float)})
    return int(proof["wrong_unmarked"] > 0)


if __name__ == "__main__":
    sys.exit(main())
