"""Further launches of rows whose times are not settled, within a budget of time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.launch.progress import Display
from benchmarks.records.claim import to_repeat, yardstick
from benchmarks.records.record import Record
from benchmarks.rows.row import Configuration


@dataclass(kw_only=True)
class Budget:
    """The seconds of all launches of a run. 0: no further launches.

    A round of further launches begins only if it ends within the budget, each launch taking as long
    as the slowest of its row so far. All times are those of records: a resumed run decides alike.
    ended: whether a round was cut short.
    """

    seconds: float
    spent: float = 0.0
    slowest: dict[str, float] = field(default_factory=dict)
    ended: bool = False

    def note_launch(self, record: Record) -> None:
        """Count a launch that has ended, now or before a stop."""
        seconds = record.launch_seconds or 0.0
        self.spent += seconds
        self.slowest[record.row] = max(self.slowest.get(record.row, 0.0), seconds)

    def allows(self, rows: Collection[str]) -> bool:
        """Whether one further launch of each of these rows ends in time."""
        expected = sum(self.slowest.get(row, 0.0) for row in rows)
        return self.spent + expected <= self.seconds

    def next_round(
        self,
        configurations: Sequence[Configuration],
        done: Sequence[Record],
        display: Display,
        is_recorded: Callable[[Configuration], bool] = lambda _: False,
    ) -> list[Configuration]:
        """The rows to launch once more, in the order of `configurations`; none at the end.

        Recorded launches, in a resumed run, cost nothing: they are read, whatever the budget.
        """
        labels = set(to_repeat(done))
        rows = [point for point in configurations if point.row.label in labels]
        recorded = [point for point in rows if is_recorded(point)]
        if recorded == rows or self.seconds <= 0 or self.ended:
            return recorded
        names = ", ".join(point.row.label for point in rows)
        if not self.allows(labels):
            self._refuse(names, display)
            return recorded
        display.note(f"not settled: one more launch of {names}")
        return rows

    def affordable(
        self,
        order: Sequence[Configuration],
        done: Sequence[Record],
        display: Display,
        is_recorded: Callable[[Configuration], bool] = lambda _: False,
    ) -> Iterator[Configuration]:
        """The rows of a round that begins, as long as each launch still ends within the budget.

        Launches may be slower than expected. Time for the row that ratios compare with is kept:
        without its launch the others of the round would form no pair.
        """
        compared = {record.row for record in yardstick(done)}
        left_out = []
        for place, point in enumerate(order):
            later = {other.row.label for other in order[place + 1 :]}
            if is_recorded(point) or self.allows({point.row.label} | (later & compared)):
                yield point
            else:
                left_out.append(point.row.label)
        if left_out:
            self.ended = True
            self._refuse(", ".join(left_out), display)

    def _refuse(self, names: str, display: Display) -> None:
        why = f"a further launch would pass --budget {self.seconds:g} s"
        display.note(f"not settled: {names}: {why}")
