"""How a launch ended: from what its ranks wrote down and from exit codes.

Never from words in a log; the one thing read there is torchrun's own list of exit codes.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.job import Progress, RankError, RankReport, Status


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a launch ended. `reports` are in rank order, complete only where the status is ok."""

    status: Status
    reason: str
    reports: list[RankReport]


def decode_progress(text: str) -> Progress:
    """Progress of rank 0. Raises msgspec.DecodeError on anything else."""
    raw = msgspec.json.decode(text)
    if isinstance(raw, dict):
        _restore_nan([raw.get("report")])
    return msgspec.convert(raw, Progress)


def _restore_nan(steps: object) -> None:
    """JSON has no NaN: a rank's null is a value that was not finite."""
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            for key in ("loss", "grad_norm"):
                if step.get(key) is None:
                    step[key] = float("nan")


def read_report(path: Path) -> RankReport | None:
    """The report of one rank; None where it is missing or damaged."""
    try:
        raw = msgspec.json.decode(path.read_bytes())
        if isinstance(raw, dict):
            _restore_nan(raw.get("steps"))
        return msgspec.convert(raw, RankReport)
    except (OSError, msgspec.DecodeError):
        return None


def _read_errors(directory: Path) -> list[RankError]:
    """The ranks' errors, earliest first; a damaged file says nothing."""
    errors = []
    for path in directory.glob("error-*.json"):
        try:
            errors.append(msgspec.json.decode(path.read_bytes(), type=RankError))
        except (OSError, msgspec.DecodeError):
            continue
    return sorted(errors, key=lambda error: error.time_ns)


_EXIT = re.compile(r"rank\s+: (\d+) \(local_rank: \d+\)\s*\n\s*exitcode\s+: (-?\d+)")


def rank_exits(log: str) -> dict[int, int]:
    """Exit codes by rank, negative for signals, from torchrun's report at the end of its output."""
    report = log[log.rfind("FAILED\n---") :]
    return {int(rank): int(code) for rank, code in _EXIT.findall(report)}


def judge(directory: Path, ranks: int, returncode: int) -> Outcome:
    """Status and reason of a launch that has ended, from the files in its folder."""
    reports = [read_report(directory / f"rank-{rank}.json") for rank in range(ranks)]
    complete = [report for report in reports if report is not None]
    errors = _read_errors(directory)
    if returncode == 0 and not errors and len(complete) == ranks:
        return Outcome(status="ok", reason="", reports=complete)
    status, reason = _cause(directory, errors, returncode)
    if not reason:
        missing = [str(rank) for rank, report in enumerate(reports) if report is None]
        reason = f"no report from rank {', '.join(missing)}" if missing else "no reason given"
        reason += f", exit code {returncode}; see {directory.name}/log.txt"
    return Outcome(status=status, reason=reason, reports=complete)


def _cause(directory: Path, errors: list[RankError], returncode: int) -> tuple[Status, str]:
    """The first cause. A killed rank could not write an error, but its peers then wrote theirs.

    torchrun itself ends the survivors with TERM, so a TERM is never a cause while there is another.
    """
    log_path = directory / "log.txt"
    exits = rank_exits(log_path.read_text("utf-8", "replace")) if log_path.exists() else {}
    silent = {rank: code for rank, code in exits.items() if rank not in {e.rank for e in errors}}
    deaths = {rank: code for rank, code in silent.items() if code < 0}
    killed = {rank: code for rank, code in deaths.items() if code != -signal.SIGTERM}
    first = errors[0] if errors else None
    if first is not None and (first.status != "failed" or not killed):
        return first.status, f"rank {first.rank}, {first.phase}: {_one_line(first.message)}"
    for rank, code in sorted((killed or deaths).items()):
        return "failed", f"rank {rank} killed by {_signal_name(-code)}"
    if returncode < 0:
        return "failed", f"torchrun killed by {_signal_name(-returncode)}"
    return "failed", ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _one_line(message: str, longest: int = 300) -> str:
    text = " ".join(message.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
