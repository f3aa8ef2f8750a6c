"""What the supervisor tells the ranks of one launch, and what each rank tells the supervisor.

Files of a launch directory, all but the note and the log written atomically:

    job.json          Job, read by every rank
    rank-{r}.json     RankReport, written by a rank that came to the end
    error-{r}.json    RankError, written by a rank that could not; the earliest is the cause
    timeline-{r}.json what the last measured step of that rank did and when, where the system says
    where-{r}         what that rank does now, or did last: 256 bytes that it writes over before
                      every instruction (`benchmarks.worker.heartbeat`)
    log.txt           the output of torchrun and of all ranks

Rank 0 also prints one `Progress` as a JSON line, prefixed with PROGRESS_PREFIX, per step.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sppo.config.workload import Workload
from sppo.plan.plan import StepPlans

Status = Literal[
    "ok", "oom", "host_oom", "timeout", "failed", "mismatch", "infeasible", "unavailable"
]
Phase = Literal["throw-away", "accounted", "warm-up", "measured"]
Enforcement = Literal["rlimit", "cuda fraction", "accounted, not enforced", "no limit"]

PROGRESS_PREFIX = "@@progress "
THROW_AWAY_TOKENS = 64
"""Length of the first optimizer step: real training, the same for all, but too small to matter."""


def throw_away_tokens(workload: Workload) -> int:
    """Length of the first step: whatever divides the ranks must divide its tokens too."""
    ranks = workload.cluster.ranks
    return min(workload.sequence_tokens, -(-THROW_AWAY_TOKENS // ranks) * ranks)


LEAST_MESSAGE_TIMEOUT_SECONDS = 120.0
"""How long a rank waits for a message of another, at least."""


MASKED = " (masked)"
"""Suffix in `Accounted.flops` of what a causal attention's mask throws away.

An operator's plain name holds what causality leaves; with the masked part it is the full block.
"""


ATTENTION = "_scaled_dot_product_"
"""How the names of torch's attention operators begin."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of one row. `settings` are decoded into the adapter's `settings_type`.

    `plans` are those of a system that plans before the launch: no rank plans.
    `account` off skips the accounted step (and with it the enforced limit). A rank waits
    `message_timeout_seconds` at most for a message: a long step keeps its peers waiting.
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


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    phase: Phase
    tokens: int
    seconds: float
    loss: float
    grad_norm: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    step: int
    steps: int
    report: StepReport


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one rank; None where this machine cannot say. Peaks are of the accounted step.

    `tracked_*` are counted by the accounting mode (storages, the same for every system);
    `untracked_peak` is the most that the device held beside tracked tensors after an operator,
    above what it held before the step. `allocated`, `reserved` and `driver_used` are CUDA's own;
    `rss` is the process's peak.
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
    enforcement: Enforcement = "no limit"


class Accounted(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one rank over the accounted step: integers, by operator or collective name."""

    flops: dict[str, int] = {}
    collective_calls: dict[str, int] = {}
    collective_bytes: dict[str, int] = {}


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    rank: int
    steps: list[StepReport]
    memory: Memory
    accounted: Accounted | None
    environment: dict[str, Any]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What a device held in bytes when it refused more: tracked tensors, and what lay beside them.

    `untracked_bytes` is above what it held before the step, as in `Memory`.
    """

    limit_bytes: int
    tracked_bytes: int
    untracked_bytes: int


class RankError(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is decided where the error happened, from its type, never from a log.

    `lost_peer`: it only says that another rank is gone, so the cause lies there.
    """

    rank: int
    status: Status
    message: str
    traceback: str
    phase: str
    time_ns: int
    lost_peer: bool = False
    refusal: Refusal | None = None
