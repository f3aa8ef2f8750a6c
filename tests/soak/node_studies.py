"""Cases of `tests.soak.nodes`: batch scripts with an srun of ours, and a sweep that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.launch import run_file
from benchmarks.records import record as records
from benchmarks.records.record import Record
from tests.two_nodes import SHORT, SWEEP, slurm_step, started

FAKE_SRUN = """#!/bin/bash
while [ "${1#--}" != "$1" ]; do shift; done
for rank in 0 1; do
    SLURM_NODEID=$rank SLURM_PROCID=$rank SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=2 \\
        SLURM_STEP_NUM_TASKS=2 "$@" &
    pids="$pids $!"
done
code=0
for pid in $pids; do wait "$pid" || code=$?; done
exit $code
"""
"""srun, as far as the script needs it: one task a node, each with its own variables."""


def only_run(output: Path) -> Path:
    """The folder of the only run below a folder, of one node or of two."""
    (plan,) = output.rglob(run_file.NAME)
    return plan.parent


def recorded(output: Path) -> dict[str, Record]:
    """The records of the only run below a folder, by row."""
    directory = only_run(output)
    return {record.row: record for record in records.read_all(directory)}


def batch_script(folder: Path) -> str:
    """The scripts of a run and a sweep run, with an srun of ours. A requeued job goes on."""
    run_folder, sweep_folder = folder / "run", folder / "sweep"
    words = ["mini-cpu", *SHORT, "--nodes", "2", "--systems", "sppo"]
    run_script(folder, [*words, "--output", str(run_folder)], os.getpid())
    record = recorded(run_folder)["SPPO"]
    assert (record.status, record.workload.cluster.nodes) == ("ok", 2)
    words = [*SWEEP, "--nodes", "2", "--systems", "sppo", "--time", "30"]
    words += ["--output", str(sweep_folder)]
    run_script(folder, words, os.getpid() + 1)
    before = times_of_records(sweep_folder)
    assert len(before) == 4
    said = run_script(folder, words, os.getpid() + 1)
    assert said.count("measured before") == 4, said
    assert times_of_records(sweep_folder) == before
    return "ok"


def run_script(folder: Path, words: Sequence[str], job: int) -> str:
    """Write a batch script and run it as this job of SLURM; its output."""
    line = [sys.executable, "-m", "benchmarks", "slurm", *words]
    text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    (folder / "bin").mkdir(exist_ok=True)
    for name, content in (("srun", FAKE_SRUN), ("job.sbatch", text)):
        path = folder / "bin" / name
        path.write_text(content)
        path.chmod(0o755)
    step = slurm_step(0, "127.0.0.[2-3]", job)
    outside = {name: value for name, value in step.items() if "STEP" not in name}
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(folder / "bin" / "job.sbatch")],
        env={**os.environ, **outside, "PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def times_of_records(output: Path) -> dict[str, int]:
    """When each record below a folder was written, in ns."""
    paths = output.rglob(records.FILE_NAME)
    return {str(path.relative_to(output)): path.stat().st_mtime_ns for path in paths}


def sweep_killed(folder: Path) -> str:
    """The command of node 1 is killed in the second value of a sweep; then the sweep goes on.

    Node 1 takes its first command again, without a folder to go on in.
    """
    words = [*SWEEP, "--systems", "sppo,megatron-same-layout"]
    with started(folder) as nodes:
        for rank in (0, 1):
            nodes.start(rank, words)
        nodes.wait_for(0, "mini-cpu-2-nodes, 2:")
        nodes.wait_for(0, "Megatron in SPPO's layout, launch 1: step 1/", times=2)
        os.kill(nodes.processes[1].pid, signal.SIGKILL)
        assert nodes.codes() == [1, -signal.SIGKILL]
        directory = only_run(nodes.output(0))
        assert f"--resume {directory}" in nodes.text(0), nodes.text(0)
        before = times_of_records(directory)
        assert sum(name.startswith("1/") for name in before) == 3, before
        nodes.start(0, [*words, "--resume", str(directory)], names_output=False)
        nodes.start(1, words)
        assert nodes.codes() == [0, 0], nodes.text(0)
        after = times_of_records(directory)
        assert {name: after[name] for name in before} == before, "nothing is measured again"
        assert len(after) == 6, after
        assert nodes.text(0).count("measured before") == len(before)
        assert not list(nodes.output(1).rglob("weights.pt")), "also those of the killed command"
        statuses = {
            record.status for value in "12" for record in records.read_all(directory / value)
        }
        assert statuses == {"ok"}
    return f"{len(before)} of {len(after)} launches were there"
