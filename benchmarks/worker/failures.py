"""The end of a rank that fails: its error file, its output, its exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from baselines.protocol import Unavailable
from benchmarks.job import Job, RankError, Refusal, Status
from benchmarks.records import store
from benchmarks.worker import device as devices
from benchmarks.worker.heartbeat import Heartbeat
from sppo.config.errors import HostTierFull, Infeasible, NotSupported
from sppo.config.sizes import format_bytes

WRONG_INPUT = 2
"""The exit code of a rank that was started wrongly, as for `sppo-bench`."""

LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Connection refused",
    "connectFullMesh failed",
    "Broken pipe",
    "Timed out waiting",
    "Wait timeout",
    "wait timeout",
    "Socket Timeout",
    "Application timeout caused pair closure",
    "NCCL communicator was aborted",
    "ncclRemoteError",
)
"""Messages of gloo, NCCL and torch's store about a peer that is gone or does not answer."""

STATUSES: tuple[tuple[type[Exception], Status], ...] = (
    (HostTierFull, "host_oom"),
    (Infeasible, "infeasible"),
    (Unavailable, "unavailable"),
    (NotSupported, "unavailable"),
)
"""Error types with a status of their own; the first match counts."""


def report_uncaught_errors(report: Callable[[Exception], object]) -> None:
    """Install a hook: an uncaught error is reported before it ends this process."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            report(error)
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def status_of(error: Exception, limit_in_force: bool) -> Status:
    """The status for `error`, from its type (and torch's message for a full CPU)."""
    if devices.is_out_of_memory(error, limit_in_force):
        return "oom"
    return next((status for kind, status in STATUSES if isinstance(error, kind)), "failed")


def lost_peer(error: BaseException | None) -> bool:
    """Whether `error` only reports that another rank is gone, and so is not the cause.

    An error that was raised because of such an error, or while handling one, is a report too.
    """
    while error is not None:
        is_report = isinstance(error, (RuntimeError, OSError))
        if is_report and any(words in str(error) for words in LOST_PEER):
            return True
        error = error.__cause__ or error.__context__
    return False


def refusal_words(refusal: Refusal | None) -> str:
    """The bytes on a full device, to follow the error's message."""
    if refusal is None:
        return ""
    return (
        f"; the device held {format_bytes(refusal.tracked_bytes)} of tracked tensors and "
        f"{format_bytes(refusal.untracked_bytes)} outside them, its limit is "
        f"{format_bytes(refusal.limit_bytes)}"
    )


def fail(job: Job, heartbeat: Heartbeat, error: Exception) -> NoReturn:
    """Write error-{r}.json and end at once: a peer or a library's thread may hang for ever."""
    text = _record(job, heartbeat, error)
    sys.stdout.flush()
    # torch.distributed's own hook, which calls this one, holds sys.stderr back until it returns.
    print(text, file=sys.__stderr__, flush=True)
    os._exit(1)


def refuse(job: Job, heartbeat: Heartbeat, error: ValueError) -> NoReturn:
    """Write error-{r}.json and end with one line, before anything has started."""
    _record(job, heartbeat, error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(WRONG_INPUT)


def write(job: Job, name: str, value: Any) -> None:
    """Write a value as JSON into the launch directory."""
    store.save(Path(job.output_directory) / name, value)


def _record(job: Job, heartbeat: Heartbeat, error: Exception) -> str:
    """Write error-{r}.json; the traceback."""
    now_ns = time.time_ns()
    text = "".join(traceback.format_exception(error))
    status = status_of(error, heartbeat.limit_in_force)
    refusal = heartbeat.refusal if status == "oom" else None
    record = RankError(
        rank=heartbeat.rank,
        status=status,
        message=(str(error) or type(error).__name__) + refusal_words(refusal),
        traceback=text,
        phase=heartbeat.phase,
        time_ns=now_ns,
        lost_peer=status == "failed" and lost_peer(error),
        refusal=refusal,
    )
    write(job, f"error-{heartbeat.rank}.json", record)
    return text
