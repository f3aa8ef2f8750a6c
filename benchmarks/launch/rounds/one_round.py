"""One round of launches: every row once, one launch after another, or in turn by measured steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil

from benchmarks.launch.rounds.turns import Turn, stop_all, take_turns
from benchmarks.records.record import Record
from benchmarks.rows.row import Configuration
from sppo.offload.host_limits import available_bytes

Instead = Callable[[Configuration], Configuration | None]
"""The row to launch in place of one that ran out of memory; None: the oom is its result."""

Launch = Callable[..., Record]
"""A row and the number of its launch, and a `Turn` where it takes turns -> the record."""

Launched = tuple[int, Configuration, Record]
"""The place of a row in the round, what was launched there, and its record."""

ROOM = 1.5
"""Free host memory that a further launch needs, over the mean of those that wait."""


@dataclass(kw_only=True)
class Round:
    """The launches of one number. instead: None in a round that repeats rows.

    note: gets a line where memory is too short for turns. began: (row, launch) of those that take
    turns, in their order.
    """

    number: int
    launch: Launch
    instead: Instead | None = None
    note: Callable[[str], None] = lambda line: None
    began: list[tuple[str, int]] = field(default_factory=list)
    name: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")

    def launches(
        self, configurations: Sequence[Configuration], *, in_turns: bool
    ) -> Generator[Launched, None, None]:
        """The launches of these rows. A single row has nobody to take turns with."""
        rows = list(configurations)
        if in_turns and len(self.order(rows)) > 1:
            yield from self.in_turn(rows)
        else:
            yield from self.one_by_one(rows)

    def one_by_one(self, rows: Sequence[Configuration]) -> Generator[Launched, None, None]:
        """Forwards for odd numbers, else backwards, so that no row is always the last."""
        for place in self.order(rows):
            yield from self.launches_at(place, rows[place])

    def in_turn(self, rows: Sequence[Configuration]) -> Generator[Launched, None, None]:
        """All rows alive at once, each taking its measured steps in turn with the others.

        Rows for which the host has no memory left follow one by one. After an error or a close no
        launch is left.
        """
        order = self.order(rows)
        places: dict[Turn, tuple[int, Configuration]] = {}
        begun: list[Turn] = []
        waiting = 0
        try:
            while order and (not waiting or has_room(rows[order[0]], waiting)):
                place = order.pop(0)
                row: Configuration | None = rows[place]
                while row is not None:
                    turn = self.turn_of(row, len(rows))
                    begun.append(turn)
                    record = turn.resume()
                    if record is None:
                        places[turn] = (place, row)
                        waiting += 1
                        break
                    yield place, row, record
                    row = self.replacement(row, record)
                    if row is not None:
                        for earlier in range(1, self.number):
                            self.began.append((row.row.label, earlier))
                            yield place, row, self.launch(row, earlier)
            for turn, record in take_turns(list(places)):
                yield *places[turn], record
        finally:
            stop_all(begun)
        if order:
            names = ", ".join(rows[place].row.label for place in order)
            self.note(f"not enough free memory for all rows at once: {names} launched alone")
        for place in order:
            yield from self.launches_at(place, rows[place])

    def order(self, rows: Sequence[Configuration]) -> list[int]:
        """The places to launch. A row refused before any launch is recorded once."""
        places = [place for place, row in enumerate(rows) if self.number == 1 or row.status is None]
        return places if self.number % 2 else places[::-1]

    def in_order(self, records: Sequence[Record]) -> list[Record]:
        """The records of the round in the order in which its launches began."""
        began = {launch: number for number, launch in enumerate(self.began)}
        return sorted(records, key=lambda one: began.get((one.row, one.launch), len(began)))

    def turn_of(self, row: Configuration, launches: int) -> Turn:
        """The launch of a row, ready to begin."""
        self.began.append((row.row.label, self.number))
        return Turn(self.name, launches, lambda turn: self.launch(row, self.number, turn))

    def replacement(self, row: Configuration, record: Record) -> Configuration | None:
        """The row to launch in place of this one after this record, if any."""
        if record.status != "oom" or self.instead is None:
            return None
        return self.instead(row)

    def launches_at(self, place: int, row: Configuration) -> Generator[Launched, None, None]:
        """This launch of a row. After an oom, all launches so far of the row in its place."""
        record = self.launch(row, self.number)
        yield place, row, record
        while (instead := self.replacement(row, record)) is not None:
            row = instead
            for earlier in range(1, self.number + 1):
                record = self.launch(row, earlier)
                yield place, row, record
                if record.status == "oom":
                    break


def has_room(row: Configuration, waiting: int) -> bool:
    """Whether the host has memory for a launch of this row beside those that wait.

    Pages that processes share count for each of them, so the answer is rather no than yes.
    """
    held_bytes = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            held_bytes += process.memory_info().rss
    left_bytes = available_bytes()
    return left_bytes is None or left_bytes >= ROOM * held_bytes / waiting + host_tier_bytes(row)


def host_tier_bytes(row: Configuration) -> int:
    """Bytes that the plan of a row reserves in host memory; 0 without a plan."""
    if row.plan is None:
        return 0
    by_stage: list[int] = row.plan.get("predicted_host_bytes", [])
    replicas = int(row.plan.get("data_parallel", 1)) * int(row.plan.get("sequence_parallel", 1))
    return sum(by_stage) * replicas
