"""The outcome of a launch, from the files of its ranks and from exit codes.

Words in a log do not count; only torchrun's list of exit codes is read there. A killed rank writes
no error, but its last note has its last instruction.
"""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.job import RankError, RankReport, Status
from benchmarks.worker.heartbeat import Note, few, hang_reason, read_notes


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


_LATE_CODES = {-signal.SIGABRT: 1, -signal.SIGTERM: 3}
"""The place of an exit code as a cause: further signals have 0, exits have 2."""

_EXIT = re.compile(r"rank\s+: (\d+) \(local_rank: \d+\)\s*\n\s*exitcode\s+: (-?\d+)")


def _exit_codes(log_path: Path) -> dict[int, int]:
    """Exit codes by rank (negative: a signal), from torchrun's report at the end of a log."""
    if not log_path.exists():
        return {}
    log = log_path.read_text("utf-8", "replace")
    return {int(rank): int(code) for rank, code in _EXIT.findall(log, log.rfind("FAILED\n---"))}


def judge(directory: Path, ranks: int, returncode: int) -> Outcome:
    """Status and reason of a launch that has ended, from the files in its folder."""
    reports = [_read(directory / f"rank-{rank}.json", RankReport) for rank in range(ranks)]
    complete = [report for report in reports if report is not None]
    error_files = [_read(path, RankError) for path in directory.glob("error-*.json")]
    errors = sorted(filter(None, error_files), key=lambda error: error.time_ns)
    if returncode == 0 and not errors and len(complete) == ranks:
        return Outcome(status="ok", reason="", reports=complete)
    missing = [rank for rank, report in enumerate(reports) if report is None]
    ending = _Ending(
        errors=errors,
        exit_codes=_exit_codes(directory / "log.txt"),
        missing=missing,
        notes=read_notes(directory, ranks),
    )
    status, reason = ending.cause()
    if not reason and returncode < 0:
        reason = f"torchrun killed by {_signal_name(-returncode)}"
    elif not reason:
        names = ", ".join(map(str, missing))
        reason = f"no report from rank {names}" if missing else "no reason given"
        reason += f", exit code {returncode}; see {directory.name}/log.txt"
    return Outcome(status=status, reason=reason, reports=complete)


def out_of_time(directory: Path, ranks: int, limit_seconds: float, steps_done: int) -> Outcome:
    """The outcome of a launch at its time limit, read while its ranks still run."""
    reason = f"no end after {limit_seconds:.0f} s, {steps_done} steps done; stopped"
    hang = hang_reason(read_notes(directory, ranks), time.time_ns(), limit_seconds)
    return Outcome(status="timeout", reason=f"{reason}; {hang}" if hang else reason, reports=[])


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """The traces of a failed launch. `errors`: earliest first. `missing`: ranks without report."""

    errors: list[RankError]
    exit_codes: dict[int, int]
    missing: list[int]
    notes: list[Note | None]

    def cause(self) -> tuple[Status, str]:
        """The first cause: an error of a rank, or the death of a rank without an error.

        torchrun ends the survivors with TERM, so a TERM is the last death that counts. An error
        about a lost peer counts only where there is no other cause.
        """
        own = [error for error in self.errors if not error.lost_peer]
        deaths = self._deaths()
        died = any(code != -signal.SIGTERM for _, code in deaths)
        if own and (own[0].status != "failed" or not died):
            return own[0].status, self._error_words(own[0])
        if deaths:
            return "failed", self._death_words(*deaths[0])
        if self.errors:
            return "failed", self._vanished() or self._error_words(self.errors[0])
        return "failed", ""

    def _deaths(self) -> list[tuple[int, int]]:
        """(rank, exit code) of ranks without an error, the most likely cause first.

        A signal comes first, ABRT after the further signals, because a library aborts after it has
        lost a peer. Then come exits, unless all ranks exit, then TERM.
        """
        reported = {error.rank for error in self.errors}
        codes = {
            rank: code for rank, code in self.exit_codes.items() if code and rank not in reported
        }
        exits = [rank for rank, code in codes.items() if code > 0]
        all_exit = len(exits) == len(self.notes)
        deaths = [(r, code) for r, code in sorted(codes.items()) if code < 0 or not all_exit]
        return sorted(deaths, key=lambda death: _LATE_CODES.get(death[1], 2 if death[1] > 0 else 0))

    def _error_words(self, error: RankError) -> str:
        note = self.notes[error.rank] if error.rank < len(self.notes) else None
        doing = f", {note.doing}" if note is not None and note.doing else ""
        return f"rank {error.rank}, {error.phase}{doing}: {_one_line(error.message)}"

    def _death_words(self, rank: int, code: int) -> str:
        how = _signal_name(-code) if code < 0 else f"exit code {code}"
        note = self.notes[rank] if rank < len(self.notes) else None
        return f"rank {rank} died ({how})" + ("" if note is None else f" {note}")

    def _vanished(self) -> str:
        """The lost peer of all errors: ranks without report and error that did not wait."""
        reported = {error.rank for error in self.errors}
        gone = []
        for rank in self.missing:
            note = self.notes[rank]
            if rank not in reported and not (note is not None and note.waits):
                gone.append(f"rank {rank} ended without an error" + (f" {note}" if note else ""))
        return few(gone, "; ")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _one_line(message: str, longest: int = 300) -> str:
    text = " ".join(message.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
