"""`sppo-bench slurm`: the batch script of a run or a study on several nodes."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, TypeVar

from tyro.conf import arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.flags import SeveralNodes
from benchmarks.commands.measuring.limit import Limit
from benchmarks.commands.measuring.longest import Longest
from benchmarks.commands.measuring.run import Run, RunRequest
from benchmarks.commands.run_folder import PLACE, words
from benchmarks.commands.studies.ablation import Ablation
from benchmarks.commands.studies.sweep import Sweep
from benchmarks.file_names import printable
from benchmarks.nodes import script
from benchmarks.nodes.script import Script
from benchmarks.rows.references import references
from benchmarks.workloads import DEFAULT
from sppo.config.workload import Workload

OF_THE_JOB = ("nodes", "gpus_per_node", "partition", "account", "time")
"""Flags that a measuring command does not have, or that the script gives itself."""

_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}", re.ASCII)
_NAME = re.compile(r"[\w.,@+-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Job(SeveralNodes):
    """A job of SLURM."""

    nodes: Annotated[int | None, arg(metavar="COUNT")] = None
    """Nodes of the job; the workload's own if not given."""
    gpus_per_node: Annotated[int | None, arg(metavar="COUNT")] = None
    """GPUs of a node, one a rank; checked against the workload. For CPU workloads: none."""
    partition: Annotated[str | None, arg(metavar="NAME")] = None
    """SLURM's partition; the cluster's default if not given."""
    account: Annotated[str | None, arg(metavar="NAME")] = None
    """SLURM's account, where the cluster wants one."""
    time: Annotated[str | None, arg(metavar="TIME")] = None
    """SLURM's time limit, such as 02:00:00. For `run` without --tune three times the expected time
    of all launches, and --budget, if not given."""

    def print_script(
        self, command: str, workload: Workload, expected: Callable[[], str] | None = None
    ) -> int:
        """Print the script of a command; the exit code. Raises UsageError.

        workload: on its nodes. expected: SLURM's time limit, where the user gives none.
        """
        arguments.refuse(self, ("node_rank", "endpoint"), "srun gives them to every node")
        self._check_names()
        self._check_gpus(workload)
        if self.time is None and expected is None:
            raise UsageError(
                f"give --time: how many launches `{command}` needs is not known before; a job "
                "that is cut goes on with --resume"
            )
        time = self.time or (expected() if expected else "")
        print(
            Script(
                workload=workload,
                command=command,
                arguments=words(self, without=(*OF_THE_JOB, *PLACE)) or [DEFAULT],
                written_by=["sppo-bench", "slurm", *map(printable, sys.argv[2:])],
                program=shutil.which("sppo-bench") or "sppo-bench",
                time=time,
                output=str(self.output or arguments.parent(self).absolute()),
                resume=None if self.resume is None else str(self.resume),
                partition=self.partition,
                account=self.account,
            ).text(),
            end="",
        )
        return 0

    def _check_names(self) -> None:
        for name in ("partition", "account"):
            value = getattr(self, name)
            if value is not None and not _NAME.fullmatch(value):
                raise UsageError(f"--{name} {value!r}: give a name of SLURM")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UsageError(f"--time {self.time!r}: give SLURM's form, such as 02:00:00")
        if self.output is not None and self.resume is not None:
            raise UsageError("leave --output out: --resume names the folder")

    def _check_gpus(self, workload: Workload) -> None:
        ranks = workload.cluster.ranks_per_node
        count = workload.cluster.nodes if self.nodes is None else self.nodes
        if count < 2:
            raise UsageError(
                f"{count} node(s): give --nodes 2 or more; on one node no script is needed"
            )
        if workload.cluster.device == "cpu":
            arguments.refuse(self, ("gpus_per_node",), f"{workload.name} runs on CPUs")
        elif self.gpus_per_node not in (None, ranks):
            raise UsageError(
                f"--gpus-per-node {self.gpus_per_node}: {workload.name} has {ranks} ranks on each "
                f"of {count} nodes; give --gpus-per-node {ranks}, or another --nodes"
            )


Command = TypeVar("Command", bound=Job)


def in_the_job(command: Command) -> Command:
    """The command as its job runs it, whatever launcher is around this one."""
    return command if command.nodes is not None else replace(command, nodes=1)


@dataclass(frozen=True, kw_only=True)
class Slurm(Job, Run):
    """Print the batch script of `sppo-bench run` on several nodes (docs/nodes.md).

    `sppo-bench slurm sweep ...` prints that of a study; likewise longest, limit and ablation.

    Example: sppo-bench slurm gpt-7b-1m-32xa100 --nodes 4 --gpus-per-node 8 > job.sbatch

    Example: sppo-bench slurm sweep gpt-7b-1m-32xa100 --sequences-per-step 1,2 --time 08:00:00
    """

    def run(self) -> int:
        """Print the script; the exit code. Raises UsageError."""
        arguments.refuse(self, ("dry_run",), "a job measures")
        request = in_the_job(self).check()
        expected = None if self.tune else partial(time_of, request)
        return self.print_script("run", request.workload, expected)


def time_of(request: RunRequest) -> str:
    """SLURM's time limit of all launches. Raises UsageError."""
    configurations = [*references(request.workload), *request.configurations()]
    seconds = script.job_seconds(request.workload, configurations, request.options)
    return script.slurm_time(seconds)


@dataclass(frozen=True, kw_only=True)
class SlurmSweep(Job, Sweep):
    """Print the batch script of `sppo-bench sweep` on several nodes (docs/nodes.md)."""

    def run(self) -> int:
        """Print the script; the exit code. Raises UsageError."""
        return self.print_script("sweep", in_the_job(self).check().workload)


@dataclass(frozen=True, kw_only=True)
class SlurmLongest(Job, Longest):
    """Print the batch script of `sppo-bench longest` on several nodes (docs/nodes.md)."""

    def run(self) -> int:
        """Print the script; the exit code. Raises UsageError."""
        return self.print_script("longest", in_the_job(self).check().workload)


@dataclass(frozen=True, kw_only=True)
class SlurmLimit(Job, Limit):
    """Print the batch script of `sppo-bench limit` on several nodes (docs/nodes.md)."""

    def run(self) -> int:
        """Print the script; the exit code. Raises UsageError."""
        return self.print_script("limit", in_the_job(self).check())


@dataclass(frozen=True, kw_only=True)
class SlurmAblation(Job, Ablation):
    """Print the batch script of `sppo-bench ablation` on several nodes (docs/nodes.md)."""

    def run(self) -> int:
        """Print the script; the exit code. Raises UsageError."""
        arguments.refuse(self, ("simulate",), "a simulation launches nothing")
        return self.print_script("ablation", in_the_job(self).check().workload)
