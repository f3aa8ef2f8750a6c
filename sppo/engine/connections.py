"""Schedule -> the connections between ranks of a pipeline that it will use."""

from __future__ import annotations

from itertools import permutations

from sppo.comm.messages import Channel, Connection
from sppo.schedule.dependencies import Schedule, carries_msp_weights, peer_of
from sppo.schedule.instructions import SENDS


def connections_of(schedule: Schedule) -> list[Connection]:
    """All (source, target, channel) that the schedule sends on, in one order for all ranks."""
    connections = {
        Connection(*pair, Channel.MSP_SLICES)
        for msp_split in schedule.slicing.msp_splits
        for pair in permutations(msp_split.ranks, 2)
    }
    for stage, instructions in enumerate(schedule.stages):
        for instruction in instructions:
            if instruction.op in SENDS:
                weights = carries_msp_weights(instruction)
                channel = Channel.MSP_WEIGHTS if weights else Channel.PIPELINE
                connections.add(Connection(stage, peer_of(schedule, instruction), channel))
    return sorted(connections)
