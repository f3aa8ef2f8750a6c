"""Whether this machine can run the ranks of a workload, and how a user asked for the workload."""

from __future__ import annotations

import shlex
import sys

from benchmarks import workloads
from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.flags import Launched
from benchmarks.environment import available_cores, gpu_names
from benchmarks.file_names import printable
from sppo.config.workload import Workload


def workload_words(command: Launched) -> str:
    """The workload as it was asked for, for a shell: its name, its file, or its flags."""
    given = arguments.given_flags(command, (*arguments.MODEL_FLAGS, "sequences_per_step"))
    flags = [word for name, value in given.items() for word in (arguments.flag(name), str(value))]
    by_flags = command.workload is None or any(name in given for name in arguments.MODEL_FLAGS)
    return printable(shlex.join([*([] if by_flags else [str(command.workload)]), *flags]))


def check_machine(
    workload: Workload, nodes: int = 1, asked: str = "", command: str = "run"
) -> None:
    """Raise UsageError, with a command that fits, if this machine cannot run its ranks.

    nodes: on how many nodes the command runs. asked: the workload as in `workload_words`. command:
    the name of the one that was called, which the error advises; only `run` has a dry run.
    """
    cluster, asked = workload.cluster, asked or workload.name
    devices_words = "CUDA devices" if cluster.device == "cuda" else "ranks"
    needs = f"{workload.name} needs {cluster.nodes} x {cluster.ranks_per_node} {devices_words}"
    others = (
        f"`sppo-bench run {asked} --dry-run` prints its torchrun lines, "
        f"`sppo-bench {command} {workloads.DEFAULT}` runs here"
    )
    if cluster.nodes != nodes:
        line = f"sppo-bench {command} {asked} --nodes {cluster.nodes}"
        raise UsageError(f"{needs}: `{line}` on every node (docs/nodes.md); {others}")
    if cluster.device == "cpu":
        cores, ranks = available_cores(), cluster.ranks_per_node
        if ranks > cores:
            print(f"note: {ranks} ranks share {cores} core(s): slow", file=sys.stderr)
        return
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices < cluster.ranks_per_node:
        has = f"this machine has {devices}{why_no_device() if not devices else ''}"
        raise UsageError(f"{needs}, {has}" + f"; {others}" * (nodes == 1))


def why_no_device() -> str:
    """In words, with the cure, why torch sees no CUDA device."""
    import torch

    if torch.version.cuda is None:
        return " (torch is a CPU build: install with -c constraints-gpu.txt, see docs/gpu.md)"
    if not gpu_names():
        return " (no NVIDIA driver answers: run nvidia-smi, and load or install the driver)"
    return " (torch cannot use them: its CUDA may be newer than the driver, see `sppo-bench env`)"
