"""How a rank that cannot go on ends: what it writes, what it prints, its exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from baselines.protocol import Unavailable
from benchmarks.job import Job, RankError, Refusal, Status
from benchmarks.records import store
from benchmarks.worker import device as devices
from benchmarks.worker.heartbeat import Heartbeat
from sppo.config.errors import HostTierFull, Infeasible, NotBuilt
from sppo.config.sizes import format_bytes

WRONG_INPUT = 2
"""The exit code of a rank that was started wrongly; as of `sppo-bench`."""

LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "ncclRemoteError",
)
"""gloo's and NCCL's words for a peer that is gone; they have no error type of their own for it."""


def record_what_ends_it(job: Job, where: Heartbeat) -> None:
    """An error that nobody has caught ends this process as ever, but leaves its record first."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            fail(job, where, error)
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def status_of(error: Exception, limit_in_force: bool) -> Status:
    """The word for `error`, from its type (and torch's own words for a CPU that is full)."""
    if devices.is_out_of_memory(error, limit_in_force):
        return "oom"
    if isinstance(error, HostTierFull):
        return "host_oom"
    if isinstance(error, Infeasible):
        return "infeasible"
    if isinstance(error, (Unavailable, NotBuilt)):
        return "unavailable"
    return "failed"


def lost_peer(error: Exception) -> bool:
    """Whether `error` only says that another rank is gone, and so cannot be the cause."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOST_PEER)


def refusal_words(refusal: Refusal | None) -> str:
    """What a full device held, to follow the error's own words."""
    if refusal is None:
        return ""
    return (
        f"; the device held {format_bytes(refusal.tracked_bytes)} of tracked tensors and "
        f"{format_bytes(refusal.untracked_bytes)} beside them, its limit is "
        f"{format_bytes(refusal.limit_bytes)}"
    )


def fail(job: Job, where: Heartbeat, error: Exception) -> NoReturn:
    """Write error-{r}.json and end at once: a peer or a library's thread may hang for ever."""
    text = _record(job, where, error)
    sys.stdout.flush()
    # torch.distributed's own hook, which calls ours, holds sys.stderr back until we return.
    print(text, file=sys.__stderr__, flush=True)
    os._exit(1)


def refuse(job: Job, where: Heartbeat, error: ValueError) -> NoReturn:
    """Write error-{r}.json and end with one line: nothing has been started yet."""
    _record(job, where, error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(WRONG_INPUT)


def write(job: Job, name: str, value: Any) -> None:
    """One file of the launch directory."""
    store.write_bytes(Path(job.output_directory) / name, store.to_json(value))


def _record(job: Job, where: Heartbeat, error: Exception) -> str:
    """Write error-{r}.json; the traceback."""
    now_ns = time.time_ns()
    text = "".join(traceback.format_exception(error))
    status = status_of(error, where.limit_in_force)
    refusal = where.refusal if status == "oom" else None
    record = RankError(
        rank=where.rank,
        status=status,
        message=(str(error) or type(error).__name__) + refusal_words(refusal),
        traceback=text,
        phase=where.phase,
        time_ns=now_ns,
        lost_peer=status == "failed" and lost_peer(error),
        refusal=refusal,
    )
    write(job, f"error-{where.rank}.json", record)
    return text
