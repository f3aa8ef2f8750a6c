"""Who ended first in a failed launch: from the errors, ends and last notes of its ranks, by time.

An error file has the time at which its rank failed. A killed rank writes none; its parent notes
its end. What follows from another rank's end is no cause: an error about a lost peer, and all that
torchrun's own stop brings about.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from benchmarks.job import RankError, Status
from benchmarks.launch.ranks.ends import RankEnd, Stop
from benchmarks.worker.heartbeat import Note, few

TOGETHER_NS = 500_000_000
"""Events so close may have been seen in another order than they happened: a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A possible cause. may_follow: its kind can also be brought about by another rank's end."""

    time_ns: int
    status: Status
    words: str
    may_follow: bool = False


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The traces of a failed launch.

    events: in their order. missing: ranks without a report. notes: by rank.
    """

    errors: list[RankError]
    events: list[RankEnd | Stop]
    missing: list[int]
    notes: list[Note | None]

    @cached_property
    def ends(self) -> dict[int, RankEnd]:
        """The ends of ranks, by rank."""
        return {event.rank: event for event in self.events if isinstance(event, RankEnd)}

    @cached_property
    def stop(self) -> Stop | None:
        """The moment at which torchrun began to end all ranks."""
        return next((event for event in self.events if isinstance(event, Stop)), None)

    def cause(self) -> Cause | None:
        """The first cause by time.

        A library may abort, or raise an error of an unknown kind, after it has lost a peer. So a
        certain cause close to such an end comes before it.
        """
        causes = [*self._own_errors(), *self._deaths(), *self._stops()]
        causes.sort(key=lambda cause: cause.time_ns)
        if not causes or not causes[0].may_follow:
            return causes[0] if causes else None
        last_ns = causes[0].time_ns + TOGETHER_NS
        certain = [c for c in causes if not c.may_follow and c.time_ns <= last_ns]
        return certain[0] if certain else causes[0]

    def lost_peer(self) -> str:
        """The lost peer of all errors; else the earliest of these errors; "" without errors."""
        if not self.errors:
            return ""
        earliest = min(self.errors, key=lambda error: error.time_ns)
        return self._vanished() or self._error_words(earliest)

    def _own_errors(self) -> Iterator[Cause]:
        for error in self.errors:
            if not error.lost_peer:
                words = self._error_words(error)
                may_follow = error.status == "failed"
                yield Cause(
                    time_ns=error.time_ns, status=error.status, words=words, may_follow=may_follow
                )

    def _deaths(self) -> Iterator[Cause]:
        """Ranks that ended without an error of their own.

        If all ranks exit alike, the program is at fault and no rank.
        """
        reported = {error.rank for error in self.errors}
        deaths = [end for end in self.ends.values() if end.code and end.rank not in reported]
        if len(deaths) == len(self.notes) and all(
            end.code > 0 and not end.message for end in deaths
        ):
            return
        for end in deaths:
            if not self._is_stopped(end):
                yield Cause(
                    time_ns=end.time_ns,
                    status="failed",
                    words=self._death_words(end),
                    may_follow=end.code == -signal.SIGABRT,
                )

    def _is_stopped(self, end: RankEnd) -> bool:
        """Whether the rank ended because torchrun had begun to end all ranks.

        A fault that was seen just after that beginning may have been the reason for it, unless a
        rank had raised an error of its own before.
        """
        if self.stop is None or end.time_ns <= self.stop.time_ns:
            return False
        if any(cause.time_ns <= self.stop.time_ns for cause in self._own_errors()):
            return True
        own_signal = end.code < 0 and end.code not in (-signal.SIGTERM, -signal.SIGABRT)
        return not own_signal or end.time_ns > self.stop.time_ns + TOGETHER_NS

    def _stops(self) -> Iterator[Cause]:
        if self.stop is not None and self.stop.signal:
            words = f"torchrun was stopped by {signal_name(self.stop.signal)}"
            yield Cause(time_ns=self.stop.time_ns, status="failed", words=words)

    def _error_words(self, error: RankError) -> str:
        note = self._note(error.rank)
        doing = f", {note.doing}" if note is not None and note.doing else ""
        return f"rank {error.rank}, {error.phase}{doing}: {short_line(error.message)}"

    def _death_words(self, end: RankEnd) -> str:
        how = signal_name(-end.code) if end.code < 0 else f"exit code {end.code}"
        note = self._note(end.rank)
        where = "" if note is None else f" {note}"
        message = f": {short_line(end.message)}" if end.message else ""
        return f"rank {end.rank} died ({how}){where}{message}"

    def _vanished(self) -> str:
        """The ranks without report and error that did not wait for another rank."""
        reported = {error.rank for error in self.errors}
        gone = []
        for rank in self.missing:
            note = self._note(rank)
            if rank not in reported and not (note is not None and note.waits):
                end = self.ends.get(rank)
                how = "did not answer" if end is not None and end.code else "ended without an error"
                gone.append(f"rank {rank} {how}" + (f" {note}" if note else ""))
        return few(gone, "; ")

    def _note(self, rank: int) -> Note | None:
        return self.notes[rank] if rank < len(self.notes) else None


def signal_name(number: int) -> str:
    """ "SIGKILL" for 9; "signal 99" for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def short_line(message: str, longest: int = 300) -> str:
    """The message in one line of at most `longest` characters."""
    text = " ".join(message.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
