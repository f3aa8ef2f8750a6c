"""The batch script of a run or a study under SLURM, complete and commented."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.launch.options import Options
from benchmarks.launch.run import steps_of
from benchmarks.launch.time_limits import (
    START_SECONDS,
    UNKNOWN_SECONDS,
    expected_step_seconds,
    weights_seconds,
)
from benchmarks.rows.row import Configuration
from sppo.config.workload import Workload

SLACK = 3
"""The job's time over the expected one. A job that is cut goes on with --resume."""

ROUND_SECONDS = 600
END_SECONDS = 120
"""SLURM's TERM comes so long before the job's end: time to stop ranks and to say how to go on."""


WAIT_SECONDS = 60
"""srun ends all tasks so long after the first end, in case a node does not end by itself."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a script says.

    command: of `sppo-bench`, with its arguments. program: the path of `sppo-bench`. time: in
    SLURM's form. output: gets the folder of the job. resume: a folder to go on in instead.
    """

    workload: Workload
    command: str
    arguments: Sequence[str]
    written_by: Sequence[str]
    program: str
    time: str
    output: str
    resume: str | None = None
    partition: str | None = None
    account: str | None = None

    def text(self) -> str:
        """The whole script."""
        cluster = self.workload.cluster
        nodes = ["--nodes", str(cluster.nodes)]
        line = shlex.join([self.program, self.command, *self.arguments, *nodes])
        return "\n".join(
            [
                "#!/bin/bash",
                f"# {self.command} of {self.workload.name}. Submit by: sbatch FILE",
                f"# Written by `{shlex.join(self.written_by)}`; the page is docs/nodes.md.",
                *self._directives(),
                *_PREPARATION,
                *self._place(),
                "",
                "# The same command on every node. Node 0 prints the table and writes the records.",
                "# Where a node fails, node 0 names it, prints how to go on, and ends all. So srun",
                "# kills no task at once; a minute after the first end it kills what still runs.",
                "# No task is bound to a core: torchrun starts the ranks, and binds them if asked",
                "# above.",
                f"srun --nodes={cluster.nodes} --ntasks-per-node=1 --cpu-bind=none \\",
                f"    --kill-on-bad-exit=0 --wait={WAIT_SECONDS} --export=ALL \\",
                f'    {line} "${{place[@]}}"',
                "",
            ]
        )

    def _place(self) -> list[str]:
        """The lines that choose between a new folder and one to go on in."""
        if self.resume is not None:
            return [
                "# The folder of a stopped command. Nothing in there is measured twice.",
                f"place=(--resume {shlex.quote(self.resume)})",
            ]
        return [
            "# The folder of this job. If SLURM requeues the job, it goes on there, and measures",
            "# nothing twice.",
            f'folder={shlex.quote(self.output)}/slurm-"$SLURM_JOB_ID"',
            'place=(--output "$folder")',
            'for plan in "$folder"/*/run.json; do',
            '    if [ -e "$plan" ]; then place=(--resume "${plan%/run.json}"); fi',
            "done",
        ]

    def _directives(self) -> list[str]:
        cluster = self.workload.cluster
        optional = {
            "gpus-per-node": cluster.ranks_per_node if cluster.device == "cuda" else None,
            "partition": self.partition,
            "account": self.account,
        }
        chosen = [f"--{flag}={value}" for flag, value in optional.items() if value is not None]
        return [
            f"#SBATCH --job-name=sppo-{self.workload.name}",
            f"#SBATCH --nodes={cluster.nodes}",
            "# One command a node, which starts the ranks of its node, one a GPU.",
            "#SBATCH --ntasks-per-node=1",
            *[f"#SBATCH {line}" for line in chosen],
            "# No other job beside the measured steps, and all host memory for the host tier.",
            "#SBATCH --exclusive",
            "#SBATCH --mem=0",
            f"#SBATCH --time={self.time}",
            "# Shortly before the end the command stops its ranks, and prints how to go on.",
            f"#SBATCH --signal=TERM@{END_SECONDS}",
            "#SBATCH --output=%x-%j.out",
        ]


_PREPARATION = r"""
set -euo pipefail

# Load here what your login needs, such as `module load cuda`. All nodes must have the same Python,
# libraries and code; otherwise nothing starts, and one line names the difference.

# A secret of this job: only commands that know it may take part.
SPPO_BENCH_TOKEN="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
export SPPO_BENCH_TOKEN

# Each rank on the cores beside its GPU (torchrun --numa-binding).
if command -v numactl > /dev/null && command -v nvidia-smi > /dev/null; then
    export SPPO_BENCH_NUMA_BINDING=node
fi

# The fabric. srun passes all variables on, and the records name them. Uncomment what you need:
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0   # where the automatic choice is wrong
# export NCCL_DEBUG=INFO                                 # which links NCCL takes
env | grep -E '^(NCCL|TORCH_NCCL|GLOO|FI|UCX)_' | sort || true

""".splitlines()


def job_seconds(
    workload: Workload, configurations: Sequence[Configuration], options: Options
) -> float:
    """Time for all launches of these rows, the reference among them: whole tens of minutes."""
    start_seconds = START_SECONDS + weights_seconds(workload)
    total_seconds = options.budget_seconds
    for configuration in configurations:
        if configuration.status is not None:
            continue
        steps = steps_of(configuration, options)
        try:
            seconds = steps * expected_step_seconds(workload, configuration)
        except ValueError:
            seconds = UNKNOWN_SECONDS
        launches = 1 if configuration.row.system == "reference" else options.launches
        total_seconds += launches * (start_seconds + SLACK * seconds)
    return ROUND_SECONDS * math.ceil(total_seconds / ROUND_SECONDS)


def slurm_time(seconds: float) -> str:
    """Seconds as SLURM writes them: "2-03:20:00", "00:30:00"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{days}-{clock}" if days else clock
