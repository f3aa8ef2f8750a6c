"""Further launches of rows whose times are not settled, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from benchmarks.launch.progress import Display
from benchmarks.records.claim import to_repeat
from benchmarks.records.record import Record
from benchmarks.records.timing import LEAST_LAUNCHES
from benchmarks.rows.row import Configuration


@dataclass(kw_only=True)
class Budget:
    """The seconds of a whole run, from the creation of this object. 0: no further launches.

    A round of further launches begins only if it ends within the budget, each launch taking as long
    as the slowest of its row so far.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    slowest: dict[str, float] = field(default_factory=dict)
    started: float = field(init=False)
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.last = self.clock()

    def note_launch(self, row: str) -> None:
        """A launch of this row has ended. It took the time since the previous launch."""
        now = self.clock()
        self.slowest[row] = max(self.slowest.get(row, 0.0), now - self.last)
        self.last = now

    def allows(self, rows: Collection[str]) -> bool:
        """Whether one further launch of each of these rows ends in time."""
        expected = sum(self.slowest.get(row, 0.0) for row in rows)
        return self.clock() - self.started + expected <= self.seconds

    def next_round(
        self,
        configurations: Sequence[Configuration],
        done: Sequence[Record],
        display: Display,
        is_recorded: Callable[[Configuration], bool] = lambda _: False,
    ) -> list[Configuration]:
        """The rows to launch once more, in the order of `configurations`; none at the end.

        A row with a single launch is left alone: its user has asked for one. A round whose launches
        are all recorded, in a resumed run, costs nothing.
        """
        counts = [record.row for record in done]
        labels = {row for row in to_repeat(done) if counts.count(row) >= LEAST_LAUNCHES}
        rows = [point for point in configurations if point.row.label in labels]
        if not rows:
            return []
        if all(map(is_recorded, rows)):
            return rows
        if self.seconds <= 0:
            return []
        names = ", ".join(point.row.label for point in rows)
        if not self.allows(labels):
            why = f"a further launch would pass --budget {self.seconds:g} s"
            display.note(f"not settled: {names}: {why}")
            return []
        display.note(f"not settled: one more launch of {names}")
        return rows
