"""Schedule -> the connections between ranks of a pipeline that it will use."""

from __future__ import annotations

from itertools import permutations

from sppo.comm.messages import Channel, Connection
from sppo.schedule.dependencies import Schedule, is_loan, peer_of
from sppo.schedule.instructions import SENDS


def connections_of(schedule: Schedule) -> list[Connection]:
    """Who sends to whom through which channel, each once, in one order for all ranks."""
    found = set()
    for stage, instructions in enumerate(schedule.stages):
        for one in instructions:
            if one.op in SENDS:
                channel = Channel.LOANS if is_loan(one) else Channel.PIPELINE
                found.add(Connection(stage, peer_of(schedule, one), channel))
    for lending in schedule.slicing.lendings:
        found.update(Connection(*pair, Channel.SLICES) for pair in permutations(lending.ranks, 2))
    return sorted(found)
