"""One emulated rank: the adapter's own step on fake tensors, counted as a real one is.

    python -m benchmarks.emulation.worker JOB.json ROLE RANK RANKS

RANKS: how many ranks this rank stands for. The same program as `benchmarks.worker.rank` up to its
accounted step: a throw-away step of 64 tokens, which makes optimizer state and caches, then one
whole step. The process writes role-{rank}.json, after an error in the library too.
"""

from __future__ import annotations

import csv
import gc
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from baselines import registry
from baselines.protocol import Brief, Context, Role, System
from benchmarks.accounting.accounting import Accounting
from benchmarks.accounting.memory_timeline import CurvePoint, Journal
from benchmarks.emulation import fake_world
from benchmarks.emulation.counts import counts_of
from benchmarks.emulation.result import KINDS, Counts, EmulationJob, RoleReport
from benchmarks.job import Status, throw_away_tokens
from benchmarks.records import store
from benchmarks.worker.failures import report_uncaught_errors, status_of
from benchmarks.worker.parent import end_with_parent
from benchmarks.worker.step_isolation import no_garbage_collection
from benchmarks.worker.weights import torch_dtype
from sppo.config.sizes import KIB
from sppo.plan.weights import weight_shapes

Further = Callable[[System, torch.Tensor], None]
"""Takes further steps on the same tokens, which do not count."""


def main(arguments: Sequence[str]) -> None:
    """Emulate the rank of the arguments. Raises every error of the system, after its report."""
    end_with_parent(signal.SIGKILL)
    emulate(*arguments)


def emulate(path: str, name: str, rank: str, ranks: str, *, further: Further | None = None) -> None:
    """Emulate a rank of the job in a file, as `EmulatedRank.run`, and report how it ended."""
    job = msgspec.json.decode(Path(path).read_bytes(), type=EmulationJob)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    emulated = EmulatedRank(job, Role(name=name, rank=int(rank), ranks=int(ranks)))
    report_uncaught_errors(emulated.report_failure)
    emulated.report("ok", counts=emulated.run(further))


class EmulatedRank:
    """One rank's run, and how far the run has come."""

    def __init__(self, job: EmulationJob, role: Role) -> None:
        self.started = time.perf_counter()
        self.job = job
        self.role = role
        self.adapter = registry.load(job.system)
        self.journal = Journal()
        self.accounting = Accounting(fake_world.DEVICE, self.journal)
        self.phase = "start"

    def run(self, further: Further | None = None) -> Counts:
        """Run both steps; the counts are those of the second. Raises every error of the system."""
        workload = self.job.workload
        with fake_world.rank_of(self.role.rank, workload.cluster):
            self.phase = "prepare"
            system = self._prepare()
            self.phase = "throw-away step"
            system.step(self._throw_away(system))
            self.phase = "step"
            shape = (workload.sequences_per_step, workload.sequence_tokens + 1)
            tokens = torch.zeros(shape, dtype=torch.int64)
            self.accounting.ignore(fake_world.constants())
            before_bytes = counted_step(system, self.accounting, tokens)
            if further is not None:
                further(system, tokens)
            system.close()
        memory = self.journal.replay()
        write_curve(memory.curve, Path(self.job.output_directory) / f"live-{self.role.rank}.csv")
        return counts_of(self.accounting, memory, before_bytes, workload.cluster)

    def report(self, status: Status, *, counts: Counts | None = None, reason: str = "") -> None:
        """Write role-{rank}.json; without counts where the step did not end. Raises OSError."""
        names = ("peak_device_bytes", "peak_host_bytes", "flops", "communication_bytes")
        totals: dict[str, Any] = {name: getattr(counts, name, None) for name in names}
        report = RoleReport(
            role=self.role.name,
            rank=self.role.rank,
            ranks=self.role.ranks,
            status=status,
            reason=reason,
            phase=self.phase,
            versions={"torch": torch.__version__, **self.adapter.versions()},
            seconds=time.perf_counter() - self.started,
            process_peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB,
            counts=counts,
            **totals,
        )
        store.save(Path(self.job.output_directory) / f"role-{self.role.rank}.json", report)

    def report_failure(self, error: Exception) -> None:
        """The report of a rank that an error of the library has ended, with the error's text."""
        if self.phase == "step":
            self.phase = f"step: {self.journal.progress()}"
        status = status_of(error, limit_in_force=False)
        self.report(status, reason=str(error) or type(error).__name__)

    def _prepare(self) -> System:
        workload = self.job.workload
        dtype = torch_dtype(workload.dtype)
        shapes = weight_shapes(workload.model)
        weights = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        self.accounting.ignore(weights.values())
        context = Context(
            rank=self.role.rank,
            ranks=workload.cluster.ranks,
            device=fake_world.DEVICE,
            dtype=dtype,
            plans=self.job.plans,
            label=self.accounting.label,
            take_host=fake_world.host_memory,
        )
        settings: Any = msgspec.convert(self.job.settings, self.adapter.settings_type)
        return self.adapter.prepare(workload, settings, weights, context)

    def _throw_away(self, system: System) -> torch.Tensor:
        """Tokens of the first step: as few sequences as the system needs."""
        workload = self.job.workload
        sequences = workload.sequences_per_step
        if isinstance(system, Brief):
            sequences = system.least_sequences()
        return torch.zeros((sequences, throw_away_tokens(workload) + 1), dtype=torch.int64)


def counted_step(system: System, accounting: Accounting, tokens: torch.Tensor) -> int:
    """One whole step of a system after its first step, real or fake, counted.

    Returns the bytes on the device before the step.
    """
    gc.collect()
    for kind, tensors in system.tensors().items():
        accounting.adopt(kind, tensors)
    accounting.adopt_visible()
    before_bytes = accounting.live_bytes
    with no_garbage_collection(), accounting:
        system.step(tokens)
    accounting.close()
    return before_bytes


def write_curve(curve: list[CurvePoint], path: Path) -> None:
    """Live bytes over the step as CSV; a row is the highest point of its share of the step."""
    with path.open("w", newline="", encoding="ascii") as stream:
        rows = csv.writer(stream)
        kinds = (*KINDS, "host")
        rows.writerow(("operator", "share", "device_bytes", *(f"{kind}_bytes" for kind in kinds)))
        for point in curve:
            by_kind = [point.by_kind.get(kind, 0) for kind in kinds]
            rows.writerow((point.operator, f"{point.share:.6f}", point.device_bytes, *by_kind))


if __name__ == "__main__":
    main(sys.argv[1:])
