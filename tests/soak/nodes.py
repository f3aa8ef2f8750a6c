"""Two nodes on one machine: equal losses for every row, and each fault named. Real launches.

    python -m tests.soak.nodes --output results/published/proofs/NAME.json
    python -m tests.soak.nodes --cases frozen,sweep-killed

Exits 1 if a case failed. The case of a full disk needs root, for a small file system.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environment import CHECKOUT, describe_environment
from benchmarks.records import store
from tests.soak.node_studies import batch_script, only_run, recorded, sweep_killed
from tests.two_nodes import RUN, Nodes, started

SPPO = (*RUN, "--systems", "sppo")
LONG = ("run", "mini-cpu", "--launches", "1", "--measured-steps", "3000", "--no-wandb")
IN_A_LAUNCH = "SPPO, launch 1: step 4/"


def both(nodes: Nodes, *arguments: str) -> list[int]:
    """Run both nodes by hand; their exit codes."""
    for rank in (0, 1):
        nodes.start(rank, arguments)
    return nodes.codes()


def worker_of(nodes: Nodes, node: int) -> psutil.Process:
    """The only rank of a node."""
    tree = psutil.Process(nodes.processes[node].pid).children(recursive=True)
    (worker,) = [each for each in tree if "benchmarks.worker.rank" in each.cmdline()[2:4]]
    return worker


def equal_losses(folder: Path) -> str:
    """All rows over two nodes have the losses of one node."""
    rows = "sppo,megatron,deepspeed,native"
    with started(folder / "two") as nodes:
        assert both(nodes, *RUN, "--systems", rows) == [0, 0], nodes.text(0)
        over_two = recorded(nodes.output(0))
    with started(folder / "one") as nodes:
        nodes.start(0, [*RUN, "--systems", rows], by_hand=False)
        assert nodes.codes() == [0], nodes.text(0)
        over_one = recorded(nodes.output(0))
    assert over_two.keys() == over_one.keys()
    largest = 0.0
    for row, record in over_two.items():
        assert record.status == over_one[row].status == "ok", (row, record.reason)
        for step, alone in zip(record.steps, over_one[row].steps, strict=True):
            assert step.loss is not None
            assert alone.loss is not None
            largest = max(largest, abs(step.loss / alone.loss - 1))
    assert largest < 1e-5
    return f"{len(over_two)} rows, largest relative difference {largest:.1e}"


def killed(folder: Path) -> str:
    """The command of node 1 is killed in a launch; then the run goes on, without that launch."""
    with started(folder) as nodes:
        for rank in (0, 1):
            nodes.start(rank, [*RUN, "--systems", "sppo,megatron-same-layout"])
        nodes.wait_for(0, "Megatron in SPPO's layout, launch 1: step 1/")
        ranks = psutil.Process(nodes.processes[1].pid).children(recursive=True)
        began = time.monotonic()
        os.kill(nodes.processes[1].pid, signal.SIGKILL)
        assert nodes.codes() == [1, -signal.SIGKILL]
        seconds = time.monotonic() - began
        assert "error: node 1 (" in nodes.text(0), nodes.text(0)
        assert not psutil.wait_procs(ranks, timeout=10)[1]
        before = recorded(nodes.output(0))
        assert set(before) == {"Reference"}, list(before)
        assert len(list(nodes.output(1).glob("*-node-1/weights.pt"))) == 1
        directory = only_run(nodes.output(0))
        again = [*RUN, "--systems", "sppo,megatron-same-layout", "--resume", str(directory)]
        for rank in (0, 1):
            nodes.start(rank, again, names_output=rank > 0)
        assert nodes.codes() == [0, 0], nodes.text(0)
        assert "Reference, launch 1: ok, measured before" in nodes.text(0)
        assert not list(nodes.output(1).rglob("weights.pt")), "also those of the killed command"
        assert {record.status for record in recorded(nodes.output(0)).values()} == {"ok"}
    return f"named after {seconds:.1f} s"


def rank_killed(folder: Path) -> str:
    """A rank of node 1 is killed: a failed row with its name, and the run goes on."""
    with started(folder) as nodes:
        for rank in (0, 1):
            nodes.start(rank, [*LONG, "--systems", "sppo"])
        nodes.wait_for(0, IN_A_LAUNCH)
        worker = worker_of(nodes, 1)
        began = time.monotonic()
        worker.kill()
        assert nodes.codes() == [1, 1], nodes.text(0)
        seconds = time.monotonic() - began
        record = recorded(nodes.output(0))["SPPO"]
        assert record.status == "failed"
        assert record.reason.startswith("rank 1 died (SIGKILL) in the measured step"), record.reason
    return f"{record.reason!r} after {seconds:.1f} s"


def rank_hung(folder: Path) -> str:
    """A rank of node 1 hangs: a time-out that names it, by the notes of both nodes."""
    with started(folder) as nodes:
        for rank in (0, 1):
            nodes.start(rank, [*LONG, "--systems", "sppo", "--time-limit", "60"])
        nodes.wait_for(0, IN_A_LAUNCH)
        worker_of(nodes, 1).suspend()
        assert nodes.codes() == [1, 1], nodes.text(0)
        record = recorded(nodes.output(0))["SPPO"]
        assert record.status == "timeout"
        assert "rank 1 hung in the measured step" in record.reason, record.reason
    return repr(record.reason)


def frozen(folder: Path) -> str:
    """Node 1 stops answering, as a machine without power."""
    with started(folder) as nodes:
        for rank in (0, 1):
            nodes.start(rank, [*LONG, "--systems", "sppo"])
        nodes.wait_for(0, IN_A_LAUNCH)
        tree = [psutil.Process(nodes.processes[1].pid)]
        tree += tree[0].children(recursive=True)
        for each in tree:
            each.suspend()
        began = time.monotonic()
        code = nodes.processes[0].wait(90)
        seconds = time.monotonic() - began
        for each in tree:
            each.kill()
        assert (code, seconds < 60) == (1, True)
        assert "is gone: no sign of life for 30 s" in nodes.text(0), nodes.text(0)
    return f"named after {seconds:.1f} s"


def head_killed(folder: Path) -> str:
    """The command of node 0 is killed: node 1 stops its ranks, and says so."""
    with started(folder) as nodes:
        for rank in (0, 1):
            nodes.start(rank, [*LONG, "--systems", "sppo"])
        nodes.wait_for(0, IN_A_LAUNCH)
        ranks = psutil.Process(nodes.processes[1].pid).children(recursive=True)
        os.kill(nodes.processes[0].pid, signal.SIGKILL)
        assert nodes.codes() == [-signal.SIGKILL, 1]
        assert "error: node 0 at 127.0.0.2:" in nodes.text(1), nodes.text(1)
        assert not psutil.wait_procs(ranks, timeout=10)[1]
    return "named"


def late(folder: Path) -> str:
    """Node 1 comes half a minute later."""
    with started(folder) as nodes:
        nodes.start(0, SPPO)
        time.sleep(30)
        assert nodes.text(0).count("node 0 waits for node 1 at") == 2, nodes.text(0)
        nodes.start(1, SPPO)
        assert nodes.codes() == [0, 0], nodes.text(0)
    return "ok"


def other_code(folder: Path) -> str:
    """Node 1 has another comment in one module."""
    copy = folder / "copy"
    for package in ("sppo", "baselines", "benchmarks"):
        shutil.copytree(CHECKOUT / package, copy / package)
    with (copy / "sppo" / "engine" / "engine.py").open("a") as stream:
        stream.write("# another comment\n")
    with started(folder) as nodes:
        nodes.start(0, SPPO)
        nodes.start(1, SPPO, variables={"PYTHONPATH": str(copy)})
        assert nodes.codes() == [2, 2], nodes.text(0)
        for rank in (0, 1):
            assert "its code is not that of node 0" in nodes.text(rank), nodes.text(rank)
        assert not list(nodes.output(0).iterdir())
    return "refused"


def other_data(folder: Path) -> str:
    """The same name is another file on node 1."""
    with started(folder) as nodes:
        for rank in (0, 1):
            nodes.output(rank).mkdir(parents=True)
            (nodes.output(rank) / "data.txt").write_text(f"text of node {rank} " * 4000)
        assert both(nodes, *SPPO, "--data", "data.txt") == [2, 2], nodes.text(0)
        assert "its tokens are not those of node 0" in nodes.text(0), nodes.text(0)
        left = [path.name for rank in (0, 1) for path in nodes.output(rank).iterdir()]
        assert left == ["data.txt", "data.txt"]
    return "refused"


def full_disk(folder: Path) -> str:
    """The disk of node 1 has no room for the weights."""
    if os.geteuid():
        return "skipped: no root"
    with started(folder) as nodes:
        small = nodes.output(1)
        small.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], check=True)
        try:
            assert both(nodes, *SPPO) == [2, 2], nodes.text(0)
        finally:
            subprocess.run(["umount", small], check=True)
        assert "error: node 1 (" in nodes.text(0), nodes.text(0)
        assert "the disk may be full" in nodes.text(0), nodes.text(0)
    return "refused"


CASES: dict[str, Callable[[Path], str]] = {
    "losses": equal_losses,
    "script": batch_script,
    "killed": killed,
    "sweep-killed": sweep_killed,
    "rank-killed": rank_killed,
    "rank-hung": rank_hung,
    "frozen": frozen,
    "head-killed": head_killed,
    "late": late,
    "code": other_code,
    "data": other_data,
    "disk": full_disk,
}


def main() -> int:
    """Run the cases; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="tests.soak.nodes", description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="names by comma")
    parser.add_argument("--output", type=Path, help="a JSON file for the answers")
    arguments = parser.parse_args()
    answers: dict[str, Any] = {}
    failed = 0
    for name in arguments.cases.split(","):
        with tempfile.TemporaryDirectory(prefix="sppo-nodes-") as folder:
            began = time.monotonic()
            try:
                answers[name] = CASES[name](Path(folder))
            except Exception:
                failed = 1
                answers[name] = f"failed: {traceback.format_exc()}"
        print(f"{name}: {answers[name]} ({time.monotonic() - began:.0f} s)", flush=True)
    if arguments.output:
        store.save(arguments.output, {"cases": answers, "environment": describe_environment()})
    return failed


if __name__ == "__main__":
    sys.exit(main())
