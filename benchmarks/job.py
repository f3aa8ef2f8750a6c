"""The files through which the supervisor and the ranks of one launch communicate.

A launch directory has these files, all but the heartbeat, the ends and the log written atomically:

    job.json          Job, read by every rank
    rank-{r}.json     RankReport of a rank that completed all steps
    error-{r}.json    RankError of a rank that failed
    timeline-{r}.json the last measured step of the rank by instruction, where the system has one
    where-{r}         the current or last instruction of the rank: 256 bytes, overwritten before
                      every instruction (`benchmarks.worker.heartbeat`)
    ends.jsonl        the end of every rank in order of time, noted by the ranks' parent
                      (`benchmarks.launch.ranks.ends`)
    turn              a named pipe while launches take turns: a byte from the launcher starts the
                      next measured step (`benchmarks.launch.rounds.turns`)
    log.txt           the output of torchrun and of all ranks

Rank 0 also prints one `Progress` as a JSON line, prefixed with PROGRESS_PREFIX, per step.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sppo.config.workload import Workload
from sppo.plan.plan import StepPlans

Status = Literal[
    "failed", "timeout", "mismatch", "host_oom", "oom", "infeasible", "unavailable", "ok"
]
"""How a launch ended, the worst first."""
Phase = Literal["throw-away", "accounted", "warm-up", "measured"]
Enforcement = Literal["rlimit", "cuda fraction", "accounted, not enforced", "no limit"]

PROGRESS_PREFIX = "@@progress "
THROW_AWAY_TOKENS = 64
"""Sequence length of the first optimizer step: real training, the same for every system."""


def throw_away_tokens(workload: Workload) -> int:
    """Sequence length of the first step: a multiple of twice the ranks, for any degrees."""
    chunks = 2 * workload.cluster.ranks
    return min(workload.sequence_tokens, -(-THROW_AWAY_TOKENS // chunks) * chunks)


LEAST_MESSAGE_TIMEOUT_SECONDS = 120.0
"""The shortest time-out of a message between ranks."""


MASKED = " (masked)"
"""Suffix in `Accounted.flops` of the operations that a causal mask discards.

The plain name of an operator has the causal operations; both together are the full block.
"""


ATTENTION = "_scaled_dot_product_"
"""How the names of torch's attention operators begin."""


class Kernels(msgspec.Struct, frozen=True, kw_only=True):
    """The kernels of a run, the same for all its rows (docs/gpu.md).

    attention: the kernel by name. asked: what the user asked for; "auto" measures. forced: also a
    kernel that never ran. fused: whether element-wise pieces are compiled. seconds: of a forward
    and backward, by measured kernel. refused: why not the others.
    """

    attention: str = "flash"
    asked: str = "flash"
    forced: bool = False
    fused: bool = False
    seconds: dict[str, float] = {}
    refused: dict[str, str] = {}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of one row. `settings` are decoded into the adapter's `settings_type`.

    `plans`: those of a system that plans before the launch; ranks do not plan. `account`: whether
    there is an accounted step, which has the enforced limit. `message_timeout_seconds`: the longest
    wait of a rank for a message. `turn_path`: the named pipe from which rank 0 reads one byte
    before each measured step; None: all steps follow each other.
    """

    workload: Workload
    system: str
    row: str
    launch: int
    settings: dict[str, Any]
    weights_path: str
    tokens_path: str
    output_directory: str
    ranks: int
    warmup_steps: int
    measured_steps: int
    account: bool = True
    threads_per_rank: int = 1
    plans: StepPlans | None = None
    message_timeout_seconds: float = LEAST_MESSAGE_TIMEOUT_SECONDS
    kernels: Kernels = Kernels()
    turn_path: str | None = None

    @property
    def phases(self) -> list[Phase]:
        """The phase of every step, in order. Step i reads tokens[i]."""
        phases: list[Phase] = ["throw-away"]
        if self.account:
            phases.append("accounted")
        phases += ["warm-up"] * self.warmup_steps
        phases += ["measured"] * self.measured_steps
        return phases


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one rank; `tokens` of all sequences together."""

    phase: Phase
    tokens: int
    seconds: float
    loss: float
    grad_norm: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A step of rank 0 that has ended: number `step`, from 0, of `steps`."""

    step: int
    steps: int
    report: StepReport


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one rank, None where unknown. Peaks are those of the accounted step.

    `tracked_*`: counted by the accounting mode, by storage, for every system in the same way.
    `untracked_peak`: the most device memory outside tracked tensors after an operator, above its
    value before the step. `allocated`, `reserved` and `driver_used`: CUDA's own counters. `rss`:
    the peak of the process. `allocation_retries`: of CUDA's allocator within the measured steps,
    each of which emptied its cache and waited for the device.
    """

    tracked_peak_bytes: int | None = None
    tracked_live_before_bytes: int | None = None
    tracked_peak_by_kind_bytes: dict[str, int] = {}
    tracked_at_peak_by_kind_bytes: dict[str, int] = {}
    activation_peak_bytes: int | None = None
    host_peak_bytes: int | None = None
    untracked_peak_bytes: int | None = None
    allocated_peak_bytes: int | None = None
    reserved_peak_bytes: int | None = None
    driver_used_bytes: int | None = None
    rss_peak_bytes: int | None = None
    allocation_retries: int | None = None
    enforcement: Enforcement = "no limit"


class Accounted(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one rank over the accounted step, by name of operator or collective."""

    flops: dict[str, int] = {}
    collective_calls: dict[str, int] = {}
    collective_bytes: dict[str, int] = {}


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one rank. `accounted` is None without an accounted step."""

    rank: int
    steps: list[StepReport]
    memory: Memory
    accounted: Accounted | None
    environment: dict[str, Any]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes on a device when it refused an allocation.

    `untracked_bytes` are above their value before the step, as in `Memory`.
    """

    limit_bytes: int
    tracked_bytes: int
    untracked_bytes: int


class RankError(msgspec.Struct, frozen=True, kw_only=True):
    """The error of one rank. `status` is decided where it happened, from its type, not from a log.

    `lost_peer`: the error only reports that another rank is gone, so the cause lies there.
    """

    rank: int
    status: Status
    message: str
    traceback: str
    phase: str
    time_ns: int
    lost_peer: bool = False
    refusal: Refusal | None = None
