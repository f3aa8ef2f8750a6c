"""`sppo-bench slurm`: the batch script of a run on several nodes."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from benchmarks.commands import arguments, several_nodes
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Data, Launched, Launches
from benchmarks.commands.machine import workload_words
from benchmarks.commands.run_folder import words
from benchmarks.file_names import printable
from benchmarks.nodes import script
from benchmarks.nodes.script import Script
from benchmarks.rows.assign import assign
from benchmarks.rows.row import REFERENCE, find
from sppo.config.workload import Workload

OF_THE_JOB = ("nodes", "gpus_per_node", "partition", "account", "time")
"""Flags that `run` does not have."""

_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
_NAME = re.compile(r"[\w.,@+-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Slurm(Data, Launches, Launched):
    """Print the batch script of `sppo-bench run` on several nodes (docs/nodes.md).

    Example: sppo-bench slurm gpt-7b-1m-32xa100 --nodes 4 --gpus-per-node 8 > job.sbatch
    """

    nodes: Annotated[int | None, arg(metavar="COUNT")] = None
    """Nodes of the job; the workload's own if not given."""
    gpus_per_node: Annotated[int | None, arg(metavar="COUNT")] = None
    """GPUs of a node, one a rank; checked against the workload. For CPU workloads: none."""
    partition: Annotated[str | None, arg(metavar="NAME")] = None
    """SLURM's partition; the cluster's default if not given."""
    account: Annotated[str | None, arg(metavar="NAME")] = None
    """SLURM's account, where the cluster wants one."""
    time: Annotated[str | None, arg(metavar="TIME")] = None
    """SLURM's time limit, such as 02:00:00; three times the expected time of all launches, and
    --budget, if not given."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, as for `run`."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which node 0 makes the run's folder, as for `run`; shared or not."""

    def run(self) -> int:
        """Print the script; the exit code. Raises UsageError."""
        workload = self._workload()
        for name in ("partition", "account"):
            value = getattr(self, name)
            if value is not None and not _NAME.fullmatch(value):
                raise UsageError(f"--{name} {value!r}: give a name of SLURM")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UsageError(f"--time {self.time!r}: give SLURM's form, such as 02:00:00")
        passed_on = words(self, without=OF_THE_JOB)
        print(
            Script(
                workload=workload,
                arguments=passed_on or [workload.name],
                written_by=["sppo-bench", "slurm", *map(printable, sys.argv[2:])],
                program=shutil.which("sppo-bench") or "sppo-bench",
                time=self.time or self._time(workload),
                partition=self.partition,
                account=self.account,
            ).text(),
            end="",
        )
        return 0

    def _workload(self) -> Workload:
        """The workload on its nodes. Raises UsageError."""
        workload = arguments.with_data(arguments.find_launched(self), self)
        count = workload.cluster.nodes if self.nodes is None else self.nodes
        if count < 2:
            raise UsageError(
                f"{count} node(s): give --nodes 2 or more; on one node `sppo-bench run "
                f"{workload_words(self)}` needs no script"
            )
        workload = several_nodes.divided(workload, count)
        ranks = workload.cluster.ranks_per_node
        if workload.cluster.device == "cpu":
            arguments.refuse(self, ("gpus_per_node",), f"{workload.name} runs on CPUs")
        elif self.gpus_per_node not in (None, ranks):
            raise UsageError(
                f"--gpus-per-node {self.gpus_per_node}: {workload.name} has {ranks} ranks on each "
                f"of {count} nodes; give --gpus-per-node {ranks}, or another --nodes"
            )
        return workload

    def _time(self, workload: Workload) -> str:
        """SLURM's time limit. Raises UsageError."""
        options = arguments.options(self)
        with usage_errors(ImportError):
            rows = find([name for item in self.systems for name in item.split(",") if name])
            configurations = [assign(row, workload) for row in (REFERENCE, *rows)]
        return script.slurm_time(script.job_seconds(workload, configurations, options))
