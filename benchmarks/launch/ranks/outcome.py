"""The outcome of a launch, from the files of its ranks and of their parent. No log is read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.job import RankError, RankReport, Status
from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.launch.ranks.blame import Evidence, signal_name
from benchmarks.worker.heartbeat import hang_reason, read_notes


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a launch. `reports` are in rank order, complete only with status ok."""

    status: Status
    reason: str
    reports: list[RankReport]


_T = TypeVar("_T")


def _read(path: Path, kind: type[_T]) -> _T | None:
    """A file of one rank; None where it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def judge(directory: Path, ranks: int, returncode: int) -> Outcome:
    """Status and reason of a launch that has ended, from the files in its folder."""
    reports = [_read(directory / f"rank-{rank}.json", RankReport) for rank in range(ranks)]
    complete = [report for report in reports if report is not None]
    error_files = [_read(path, RankError) for path in directory.glob("error-*.json")]
    errors = sorted(filter(None, error_files), key=lambda error: error.time_ns)
    if returncode == 0 and not errors and len(complete) == ranks:
        return Outcome(status="ok", reason="", reports=complete)
    missing = [rank for rank, report in enumerate(reports) if report is None]
    evidence = Evidence(
        errors=errors,
        events=rank_ends.read(directory),
        missing=missing,
        notes=read_notes(directory, ranks),
    )
    cause = evidence.cause()
    if cause is not None:
        return Outcome(status=cause.status, reason=cause.words, reports=complete)
    if returncode < 0:
        reason = f"torchrun was killed by {signal_name(-returncode)}"
    else:
        reason = evidence.lost_peer()
    if not reason:
        names = ", ".join(map(str, missing))
        reason = f"no report from rank {names}" if missing else "no reason given"
        reason += f", exit code {returncode}; see {directory.name}/log.txt"
    return Outcome(status="failed", reason=reason, reports=complete)


def out_of_time(directory: Path, ranks: int, limit_seconds: float, steps_done: int) -> Outcome:
    """The outcome of a launch at its time limit, read while its ranks still run."""
    reason = f"no end after {limit_seconds:.0f} s, {steps_done} steps done; stopped"
    hang = hang_reason(read_notes(directory, ranks), time.time_ns(), limit_seconds)
    return Outcome(status="timeout", reason=f"{reason}; {hang}" if hang else reason, reports=[])
