"""Two commands that play two nodes on this machine: over loopback, or in network namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil

from benchmarks.environment import child_environment, import_path
from benchmarks.nodes.addresses import free_port
from benchmarks.nodes.token import VARIABLE

SHORT = ("--launches", "1", "--measured-steps", "2", "--warmup-steps", "0", "--budget", "0")
RUN = ("run", "mini-cpu", *SHORT, "--no-wandb")
SWEEP = ("sweep", "mini-cpu", *SHORT, "--no-wandb", "--sequences-per-step", "1,2")
ADDRESS = "127.0.0.2"
PATIENCE_SECONDS = 240.0
END_SECONDS = 60.0


class Nodes:
    """Commands with a folder, a home and an output file each, none of which they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = uuid4().hex
        self.endpoint = f"{ADDRESS}:{free_port(ADDRESS)}"
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self,
        rank: int,
        arguments: Sequence[str],
        *,
        by_hand: bool = True,
        names_output: bool = True,
        variables: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """Start the command of a node. by_hand: with the flags of its place, and the token.

        names_output: with its own folder by --output.
        """
        words = [*arguments]
        if names_output:
            words += ["--output", str(self.output(rank))]
        added = {"XDG_DATA_HOME": str(self.folder / f"home-{rank}"), **import_path()}
        if by_hand:
            words += ["--nodes", "2", "--node-rank", str(rank), "--endpoint", self.endpoint]
            added[VARIABLE] = self.token
        self.output(rank).mkdir(parents=True, exist_ok=True)
        with self.said(rank).open("wb") as stream:
            self.processes[rank] = subprocess.Popen(
                [*prefix, sys.executable, "-m", "benchmarks", *words],
                cwd=self.output(rank),
                env={**outside_slurm(child_environment(added)), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def output(self, rank: int) -> Path:
        """The folder of a node."""
        return self.folder / f"node-{rank}"

    def said(self, rank: int) -> Path:
        """The file with the output of a node."""
        return self.folder / f"said-{rank}.txt"

    def text(self, rank: int) -> str:
        """The output of a node so far."""
        return self.said(rank).read_text()

    def wait_for(self, rank: int, words: str, times: int = 1) -> None:
        """Wait until a node has said these words so many times."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.text(rank).count(words) < times:
            assert self.processes[rank].poll() is None, self.text(rank)
            assert time.monotonic() < deadline, self.text(rank)
            time.sleep(0.1)

    def codes(self) -> list[int]:
        """The exit codes of all nodes, by rank."""
        ranks = sorted(self.processes)
        return [self.processes[rank].wait(PATIENCE_SECONDS) for rank in ranks]

    def close(self) -> None:
        """End what still runs, with all its ranks, frozen or not."""
        running = [process for process in self.processes.values() if process.poll() is None]
        members: set[psutil.Process] = set()
        for process in running:
            with suppress(psutil.Error):
                top = psutil.Process(process.pid)
                members |= {top, *top.children(recursive=True)}
        try:
            for process in running:
                process.terminate()
            for member in members:
                with suppress(psutil.Error):
                    member.send_signal(signal.SIGCONT)
            deadline = time.monotonic() + END_SECONDS
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.1))
        finally:
            for member in members:
                with suppress(psutil.Error):
                    member.kill()
            for process in running:
                process.wait(END_SECONDS)


@contextmanager
def started(folder: Path) -> Iterator[Nodes]:
    """Nodes that end with the block."""
    nodes = Nodes(folder)
    try:
        yield nodes
    finally:
        nodes.close()


def outside_slurm(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of a SLURM step in which the tests may run."""
    return {name: value for name, value in variables.items() if not name.startswith("SLURM_")}


def slurm_step(rank: int, hosts: str, job: int) -> dict[str, str]:
    """The variables that srun gives to the task of a node."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": "0",
        "SLURM_NNODES": "2",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NODEID": str(rank),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_JOB_NODELIST": hosts,
        "SLURM_STEP_NODELIST": hosts,
        "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.7",
    }


@contextmanager
def namespaces() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces with the addresses 10.77.0.1 and 10.77.0.2; what to put in front.

    Raises OSError or CalledProcessError where that is not permitted.
    """
    name = f"sppo{os.getpid()}"
    names = (f"{name}a", f"{name}b")
    with ExitStack() as undo:
        for each in names:
            _ip("netns", "add", each)
            undo.callback(_ip, "netns", "delete", each)
        _ip(
            "link",
            "add",
            "veth0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "veth0",
            "netns",
            names[1],
        )
        for number, each in enumerate(names, start=1):
            inside = ("-n", each)
            _ip(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", "veth0")
            for device in ("lo", "veth0"):
                _ip(*inside, "link", "set", device, "up")
        yield (["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]])


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)
