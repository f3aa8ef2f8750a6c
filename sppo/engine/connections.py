"""Schedule -> the connections between ranks of a pipeline that it will use."""

from __future__ import annotations

from itertools import permutations

from sppo.comm.messages import Channel, Connection
from sppo.schedule.dependencies import Schedule, carries_msp_weights, peer_of
from sppo.schedule.instructions import SENDS


def connections_of(schedule: Schedule) -> list[Connection]:
    """Who sends to whom through which channel, each once, in one order for all ranks."""
    found = set()
    for stage, instructions in enumerate(schedule.stages):
        for one in instructions:
            if one.op in SENDS:
                channel = Channel.MSP_WEIGHTS if carries_msp_weights(one) else Channel.PIPELINE
                found.add(Connection(stage, peer_of(schedule, one), channel))
    for msp_split in schedule.slicing.msp_splits:
        found.update(
            Connection(*pair, Channel.MSP_SLICES) for pair in permutations(msp_split.ranks, 2)
        )
    return sorted(found)
