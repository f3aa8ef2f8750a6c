"""Two nodes on one machine: real launches over both, and a node that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.records import record as records
from benchmarks.records.record import Record
from tests.two_nodes import RUN, SWEEP, Nodes, namespaces, slurm_step, started

pytestmark = pytest.mark.slow


def recorded(nodes: Nodes) -> dict[str, Record]:
    """The records of node 0, by row."""
    (directory,) = nodes.output(0).glob("*-mini-cpu-2-nodes")
    return {record.row: record for record in records.read_all(directory)}


def check(nodes: Nodes, *rows: str) -> None:
    """Both commands have ended well, and node 0 alone has everything of these rows."""
    assert nodes.codes() == [0, 0], nodes.text(0) + nodes.text(1)
    found = recorded(nodes)
    reference = found["Reference"]
    for row in rows:
        record = found[row]
        assert (record.status, record.ranks, len(record.memory)) == ("ok", 2, 2), record.reason
        assert record.workload.cluster.nodes == 2
        losses = [step.loss for step in record.steps]
        assert losses == pytest.approx([step.loss for step in reference.steps], rel=1e-5)
        assert [node["node"] for node in record.environment["nodes"]] == [0, 1]
    (directory,) = nodes.output(0).glob("*-mini-cpu-2-nodes")
    assert not list(directory.glob("*.pt"))
    for launch in directory.glob("*-1"):
        if launch.name != "reference-1":
            names = {path.name for path in launch.iterdir()}
            assert {"log.txt", "log-node-1.txt", "rank-0.json", "rank-1.json"} <= names
            assert (launch / "ends.jsonl").read_text().count('"rank"') >= 2
    assert not list(nodes.output(1).iterdir()), "all is on node 0"


def test_two_nodes_train_as_one(tmp_path: Path) -> None:
    with started(tmp_path) as nodes:
        for rank in (1, 0):
            nodes.start(rank, [*RUN, "--systems", "sppo"])
        check(nodes, "SPPO")


@pytest.mark.soak
def test_two_nodes_sweep_under_a_simulated_srun(tmp_path: Path) -> None:
    """Node 1 follows a study launch by launch, with new tokens for each value."""
    with started(tmp_path) as nodes:
        for rank in (0, 1):
            step = slurm_step(rank, "127.0.0.[2-3]", os.getpid())
            nodes.start(
                rank,
                [*SWEEP, "--systems", "sppo"],
                by_hand=False,
                variables={**step, "XDG_DATA_HOME": str(tmp_path / "home")},
            )
        assert nodes.codes() == [0, 0], nodes.text(0) + nodes.text(1)
        (directory,) = nodes.output(0).glob("*-mini-cpu-2-nodes")
        for value in ("1", "2"):
            done = {record.row: record for record in records.read_all(directory / value)}
            record = done["SPPO"]
            assert (record.status, len(record.memory)) == ("ok", 2), record.reason
            assert record.workload.sequences_per_step == int(value)
            assert [node["node"] for node in record.environment["nodes"]] == [0, 1]
        assert (directory / "sweep.json").exists()
        assert not list(nodes.output(1).iterdir()), "all is on node 0"


@pytest.mark.soak
def test_a_killed_node_ends_the_run_and_is_named(tmp_path: Path) -> None:
    with started(tmp_path) as nodes:
        for rank in (0, 1):
            nodes.start(rank, [*RUN, "--systems", "sppo"])
        nodes.wait_for(0, "Reference, launch 1: step 1/")
        os.kill(nodes.processes[1].pid, signal.SIGKILL)
        assert nodes.codes() == [1, -signal.SIGKILL]
        last = nodes.text(0).splitlines()[-3:]
        assert any(line.startswith("go on with: sppo-bench run mini-cpu") for line in last)
        assert any(line.startswith("error: node 1 (") for line in last), nodes.text(0)
        assert "is gone: its command has ended" in last[-1]


@pytest.mark.soak
def test_two_namespaces_under_a_simulated_srun(tmp_path: Path) -> None:
    """Each node has an address and a loopback of its own. The home is shared, for the token."""
    with ExitStack() as stack:
        try:
            prefixes = stack.enter_context(namespaces())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {error}")
        nodes = stack.enter_context(started(tmp_path))
        for rank in (0, 1):
            step = slurm_step(rank, "10.77.0.[1-2]", os.getpid())
            nodes.start(
                rank,
                [*RUN, "--systems", "sppo,deepspeed,megatron-same-layout"],
                by_hand=False,
                variables={**step, "XDG_DATA_HOME": str(tmp_path / "home")},
                prefix=prefixes[rank],
            )
        check(nodes, "SPPO", "DeepSpeed Ulysses", "Megatron in SPPO's layout")
