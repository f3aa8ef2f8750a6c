"""An emulated role, timed in this process."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baselines import registry
from baselines.protocol import Role
from baselines.sppo import SppoSettings
from benchmarks.emulation.processes import make_job
from benchmarks.emulation.worker import EmulatedRank
from benchmarks.regression.targets.target import Repetition
from benchmarks.workloads import of_flags

SETTINGS = SppoSettings(
    pipeline_parallel=2, sequence_parallel=2, subsequences=2, policy="full-offload", msp=False
)
"""Fixed, so that a change of the planner does not change what is emulated."""


@contextmanager
def role() -> Iterator[Repetition]:
    """The first role: prepare, throw-away step, counted step, and the curve of live bytes."""
    warnings.simplefilter("ignore")
    workload = of_flags(model="gpt-tiny", seq="4K", gpus=4, hardware="a100-80g")
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(workload, registry.load("sppo"), SETTINGS, Path(folder))

        def repetition() -> object:
            return EmulatedRank(job, Role(name="stage 0", rank=0, ranks=2)).run()

        yield repetition
