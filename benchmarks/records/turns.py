"""Measured steps that rows took in turn: pairs of steps, and steps without the machine's speed.

Launches of one round took their measured steps in turn (docs/timing.md). Step T of each of them is
of one turn, so the machine had about the same speed in all of these steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.records import metrics
from benchmarks.records.record import Record, group_by


def rounds(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The launches with times of each round in which two rows or more took turns."""
    timed = [
        record
        for record in records
        if record.round is not None
        and record.status == "ok"
        and metrics.measured_seconds(record.steps)
    ]
    by_round = group_by(timed, lambda record: str(record.round))
    return {name: launches for name, launches in by_round.items() if len(launches) > 1}


def relative_steps(records: Sequence[Record]) -> dict[tuple[str, int], list[float]]:
    """Seconds of measured steps as if the machine had had one speed, by row and launch.

    The speed of a turn is the median over its rows of a step over the typical step of that row. Of
    three rows or more, one disturbed step moves the speed of its turn little; of two rows, half of
    the disturbance counts as speed. Launches outside rounds are left out.
    """
    known = rounds(records)
    by_row = group_by((one for launches in known.values() for one in launches), lambda one: one.row)
    typical = {
        row: statistics.median(s for one in launches for s in metrics.measured_seconds(one.steps))
        for row, launches in by_row.items()
    }
    relative = {}
    for launches in known.values():
        steps = {one.row: metrics.measured_seconds(one.steps) for one in launches}
        turns = min(map(len, steps.values()))
        speeds = [
            statistics.median(seconds[turn] / typical[row] for row, seconds in steps.items())
            for turn in range(turns)
        ]
        for one in launches:
            pairs = zip(steps[one.row], speeds, strict=False)
            relative[one.row, one.launch] = [seconds / speed for seconds, speed in pairs]
    return relative


def ratios_by_turn(row: Record, compared: Record) -> list[float]:
    """The step of a row over that of the compared row, for each turn of one round."""
    assert row.round is not None, "it took turns"
    assert row.round == compared.round, "with the other"
    steps = (metrics.measured_seconds(one.steps) for one in (row, compared))
    return [over / under for over, under in zip(*steps, strict=False)]
