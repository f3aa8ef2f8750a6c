"""How a launch ended: from what its ranks wrote down and from exit codes.

Never from words in a log; the one thing read there is torchrun's own list of exit codes. Who was
killed could write no error, but its last note tells where it was.
"""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.job import Progress, RankError, RankReport, Status
from benchmarks.worker.heartbeat import Note, few, read_notes, who_hangs


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
    missing = [rank for rank, report in enumerate(reports) if report is None]
    ending = _Ending(
        errors=errors,
        exits=_read_exits(directory / "log.txt"),
        missing=missing,
        notes=read_notes(directory, ranks),
    )
    status, reason = ending.cause()
    if not reason and returncode < 0:
        reason = f"torchrun killed by {_signal_name(-returncode)}"
    if not reason:
        names = ", ".join(str(rank) for rank in missing)
        reason = f"no report from rank {names}" if missing else "no reason given"
        reason += f", exit code {returncode}; see {directory.name}/log.txt"
    return Outcome(status=status, reason=reason, reports=complete)


def out_of_time(directory: Path, ranks: int, limit_seconds: float, steps_done: int) -> Outcome:
    """The outcome of a launch at its time limit, told while its ranks are still there."""
    reason = f"no end after {limit_seconds:.0f} s, {steps_done} steps done; stopped"
    who = who_hangs(read_notes(directory, ranks), time.time_ns(), limit_seconds)
    return Outcome(status="timeout", reason=f"{reason}; {who}" if who else reason, reports=[])


def _read_exits(log_path: Path) -> dict[int, int]:
    return rank_exits(log_path.read_text("utf-8", "replace")) if log_path.exists() else {}


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """What is left of a launch that ended badly. `missing`: ranks without a report."""

    errors: list[RankError]
    exits: dict[int, int]
    missing: list[int]
    notes: list[Note | None]

    def cause(self) -> tuple[Status, str]:
        """The first cause: a rank's own error, or a death that left no error of its own.

        torchrun itself ends the survivors with TERM, so a TERM is the last death to blame; and an
        error that only tells of a lost peer is blamed where nothing else can be.
        """
        own = [error for error in self.errors if not error.lost_peer]
        killed, ended, terminated = self._deaths()
        if own and own[0].status != "failed":
            return own[0].status, self._told(own[0])
        deaths = killed or ended
        if not deaths and own:
            return "failed", self._told(own[0])
        for rank, code in (deaths or terminated).items():
            return "failed", self._died(rank, code)
        if self.errors:
            return "failed", self._vanished() or self._told(self.errors[0])
        return "failed", ""

    def _deaths(self) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """Exit codes of ranks without an error: by a signal, by an exit, by torchrun's own TERM.

        ABRT comes last of the signals: it is how a library gives up that has lost a peer. An exit
        of all ranks alike is none of a rank's.
        """
        spoken = {error.rank for error in self.errors}
        silent = {rank: code for rank, code in sorted(self.exits.items()) if rank not in spoken}
        killed = {r: code for r, code in silent.items() if code < 0 and code != -signal.SIGTERM}
        killed = dict(sorted(killed.items(), key=lambda item: item[1] == -signal.SIGABRT))
        ended = {rank: code for rank, code in silent.items() if code > 0}
        if len(ended) == len(self.notes):
            ended = {}
        terminated = {rank: code for rank, code in silent.items() if code == -signal.SIGTERM}
        return killed, ended, terminated

    def _told(self, error: RankError) -> str:
        note = self.notes[error.rank] if error.rank < len(self.notes) else None
        doing = f", {note.doing}" if note is not None and note.doing else ""
        return f"rank {error.rank}, {error.phase}{doing}: {_one_line(error.message)}"

    def _died(self, rank: int, code: int) -> str:
        how = _signal_name(-code) if code < 0 else f"exit code {code}"
        note = self.notes[rank] if rank < len(self.notes) else None
        return f"rank {rank} died ({how})" + ("" if note is None else f" {note}")

    def _vanished(self) -> str:
        """Where all errors tell of a lost peer: who left neither report nor error, nor waited."""
        spoken = {error.rank for error in self.errors}
        gone = []
        for rank in self.missing:
            note = self.notes[rank]
            if rank not in spoken and not (note is not None and note.waits):
                gone.append(f"rank {rank} ended without a word" + (f" {note}" if note else ""))
        return few(gone, "; ")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _one_line(message: str, longest: int = 300) -> str:
    text = " ".join(message.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
