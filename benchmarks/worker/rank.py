"""One rank of one launch: set up, one throw-away step, one accounted step, then timed steps.

    torchrun --nproc-per-node N -m benchmarks.worker.rank JOB.json

Every system runs under this program. It ends with rank-{r}.json, or with error-{r}.json and exit
code 1 (2 if it was started wrongly). The files: `benchmarks.job`.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from baselines import registry
from baselines.protocol import Adapter, Context, StepResult, System, check_tried
from benchmarks.accounting.accounting import Accounting
from benchmarks.accounting.visible import spare_live_objects
from benchmarks.job import (
    PROGRESS_PREFIX,
    Accounted,
    Job,
    Memory,
    Progress,
    RankReport,
    Refusal,
    StepReport,
)
from benchmarks.worker import device as devices
from benchmarks.worker.failures import fail, refuse, report_uncaught_errors, write
from benchmarks.worker.heartbeat import Heartbeat
from benchmarks.worker.kernels import use_kernels
from benchmarks.worker.libraries import rank_environment
from benchmarks.worker.parent import end_with_parent
from benchmarks.worker.step_isolation import no_garbage_collection, uncompiled
from benchmarks.worker.tokens import job_tokens, step_tokens
from benchmarks.worker.turns import Turns
from benchmarks.worker.weights import map_weights, torch_dtype

MEETING = "waits for all ranks"
"""A rank's note at a barrier."""


@record
def main() -> None:
    """Run the job that the command line names."""
    end_with_parent(signal.SIGKILL)
    parser = argparse.ArgumentParser(prog="benchmarks.worker.rank", description=__doc__)
    parser.add_argument("job", type=Path, help="job.json of this launch")
    job = msgspec.json.decode(parser.parse_args().job.read_bytes(), type=Job)
    heartbeat = Heartbeat(int(os.environ.get("RANK", "0")), Path(job.output_directory))
    report_uncaught_errors(partial(fail, job, heartbeat))
    try:
        check_ranks(job)
    except ValueError as error:
        refuse(job, heartbeat, error)
    report, timeline = run(job, heartbeat)
    if timeline:
        write(job, f"timeline-{heartbeat.rank}.json", timeline)
    write(job, f"rank-{heartbeat.rank}.json", report)
    dist.destroy_process_group()


def run(job: Job, heartbeat: Heartbeat) -> tuple[RankReport, list[dict[str, Any]]]:
    """The whole launch of this rank: its report and its timeline. Errors of the system pass on."""
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    if job.account:
        devices.strict_allocator()
    torch.set_num_threads(job.threads_per_rank)
    torch.set_num_interop_threads(1)
    heartbeat.note(MEETING)
    device = join_ranks(job)
    use_kernels(job, device)
    tokens = job_tokens(job)
    adapter = registry.load(job.system)
    check_tried(adapter, forced=job.kernels.forced)
    accounting = Accounting(device, held_bytes=devices.data_reader(device))
    heartbeat.enter("prepare")
    system = prepare(job, adapter, accounting, heartbeat, device)
    launch = Launch(
        job=job, heartbeat=heartbeat, system=system, device=device, accounting=accounting
    )
    launch.run_steps(tokens)
    heartbeat.enter("close")
    timeline = system.timeline()
    system.close()
    report = RankReport(
        rank=heartbeat.rank,
        steps=launch.steps,
        memory=launch.memory,
        accounted=launch.accounted,
        environment=rank_environment(job, adapter, device),
    )
    return report, timeline


def check_ranks(job: Job) -> None:
    """Raise ValueError unless torchrun has started the ranks of the job."""
    world_size = os.environ.get("WORLD_SIZE")
    if world_size is None or int(world_size) != job.ranks:
        raise ValueError(
            f"the job wants {job.ranks} ranks and WORLD_SIZE is {world_size}; "
            f"start it by torchrun with {job.ranks} processes in all"
        )


def join_ranks(job: Job) -> torch.device:
    """Make the default process group; the device of this rank."""
    timeout = timedelta(seconds=job.message_timeout_seconds)
    if job.workload.cluster.device == "cpu":
        dist.init_process_group("gloo", timeout=timeout)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    # Without device_id: with it a group has one stream for all messages, and a receive that is
    # posted ahead would block the sends of this rank.
    dist.init_process_group("nccl", timeout=timeout)
    return device


def prepare(
    job: Job, adapter: Adapter, accounting: Accounting, heartbeat: Heartbeat, device: torch.device
) -> System:
    """Let the adapter build its system. The accounting ignores the mapped weights."""
    weights = map_weights(Path(job.weights_path))
    accounting.ignore(weights.values())
    context = Context(
        rank=heartbeat.rank,
        ranks=job.ranks,
        device=device,
        dtype=torch_dtype(job.workload.dtype),
        message_timeout=timedelta(seconds=job.message_timeout_seconds),
        plans=job.plans,
        label=accounting.label,
        note=heartbeat.note,
    )
    settings: Any = msgspec.convert(job.settings, adapter.settings_type)
    return adapter.prepare(job.workload, settings, weights, context)


@dataclass(kw_only=True)
class Launch:
    """The steps of one rank, with their reports, memory and counts."""

    job: Job
    heartbeat: Heartbeat
    system: System
    device: torch.device
    accounting: Accounting
    steps: list[StepReport] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    accounted: Accounted | None = None

    def run_steps(self, tokens: npt.NDArray[np.int32]) -> None:
        """All steps in order, each checked and announced. Errors of the system pass on."""
        if not self.job.account:
            self.accounting.close()
        spare_live_objects()
        turns = Turns(self.job, self.heartbeat)
        for index, phase in enumerate(self.job.phases):
            self.heartbeat.enter(phase)
            if phase == "measured":
                turns.wait()
            batch = step_tokens(self.job.workload, tokens, index, phase)
            take_step = self.accounted_step if phase == "accounted" else self.timed_step
            result, seconds = take_step(batch)
            report = StepReport(
                phase=phase,
                tokens=batch.shape[0] * (batch.shape[1] - 1),
                seconds=seconds,
                loss=result.loss,
                grad_norm=result.grad_norm,
            )
            check_finite(index, report)
            self.steps.append(report)
            if phase != "measured":
                retries_before = devices.allocation_retries(self.device)
            if self.heartbeat.rank == 0:
                announce(Progress(step=index, steps=len(self.job.phases), report=report))
        if not self.job.account:
            self.memory = devices.memory_reading(self.device)
        self.memory = devices.with_retries(self.memory, retries_before, self.device)

    def timed_step(self, batch: torch.Tensor) -> tuple[StepResult, float]:
        """The result, and the seconds of the slowest rank between two barriers."""
        with no_garbage_collection():
            self.meet()
            start = time.perf_counter()
            result = self.system.step(batch)
            self.finish()
            seconds = time.perf_counter() - start
        return result, self.slowest(seconds)

    def accounted_step(self, batch: torch.Tensor) -> tuple[StepResult, float]:
        """As `timed_step`, counted and under the device's limit. The time is no result."""
        accounting, limit_bytes = self.accounting, self.job.workload.device_memory_bytes
        devices.warm_kernels(self.device, torch_dtype(self.job.workload.dtype))
        gc.collect()
        devices.warm_interpreter()
        for kind, tensors in self.system.tensors().items():
            accounting.adopt(kind, tensors)
        accounting.adopt_visible()
        live_before_bytes = accounting.live_bytes
        devices.reset_peaks(self.device)
        self.meet()
        start = time.perf_counter()
        with devices.enforce(limit_bytes, live_before_bytes, self.device) as enforcement:
            self.heartbeat.limit_in_force = enforcement in ("rlimit", "cuda fraction")
            with uncompiled(self.device), accounting, self.refusals(limit_bytes):
                result = self.system.step(batch)
                self.finish()
            devices.check_tracked(accounting.peak_bytes, limit_bytes, enforcement)
        self.heartbeat.limit_in_force = False
        seconds = time.perf_counter() - start
        accounting.close()
        self.memory = msgspec.structs.replace(
            devices.memory_reading(self.device),
            tracked_peak_bytes=accounting.peak_bytes,
            tracked_live_before_bytes=live_before_bytes,
            tracked_peak_by_kind_bytes=dict(+accounting.peak_by_kind),
            tracked_at_peak_by_kind_bytes=dict(+accounting.at_peak_by_kind),
            activation_peak_bytes=accounting.activation_peak_bytes,
            host_peak_bytes=accounting.host_peak_bytes,
            untracked_peak_bytes=accounting.untracked_peak_bytes,
            enforcement=enforcement,
        )
        self.accounted = Accounted(
            flops=dict(accounting.flops),
            collective_calls=dict(accounting.messages.collective_calls),
            collective_bytes=dict(accounting.messages.collective_bytes),
        )
        return result, self.slowest(seconds)

    @contextmanager
    def refusals(self, limit_bytes: int | None) -> Iterator[None]:
        """Note the bytes on a device that refused an allocation, for the rank's error."""
        try:
            yield
        except (RuntimeError, MemoryError):
            if self.accounting.refused is not None and limit_bytes is not None:
                tracked_bytes, untracked_bytes = self.accounting.refused
                self.heartbeat.refusal = Refusal(
                    limit_bytes=limit_bytes,
                    tracked_bytes=tracked_bytes,
                    untracked_bytes=untracked_bytes,
                )
            raise

    def meet(self) -> None:
        """Wait for all ranks, and for the device of this rank."""
        self.heartbeat.note(MEETING)
        dist.barrier()
        self.heartbeat.note("")
        self.finish()

    def finish(self) -> None:
        """Wait for the device; a CPU is never behind."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def slowest(self, seconds: float) -> float:
        """The largest `seconds` of all ranks."""
        value = torch.tensor([seconds], dtype=torch.float64, device=self.device)
        self.heartbeat.note(MEETING)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return float(value.item())


def check_finite(index: int, report: StepReport) -> None:
    """Raise FloatingPointError, naming the step, if loss or gradient norm is no number."""
    if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
        raise FloatingPointError(
            f"step {index} ({report.phase}): loss {report.loss}, gradient norm {report.grad_norm}"
        )


def announce(progress: Progress) -> None:
    """Print a line for the supervisor, in one write: a launch in turn waits for its answer."""
    line = PROGRESS_PREFIX + msgspec.json.encode(progress).decode()
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
