"""A schedule is data: per stage, the list of typed instructions it will run.

    RA0.3@1  post the receive of the hidden states of subsequence 3 (sequence 0) for part 1
    F0.3@1   forward through part 1; needs RA0.3@1 complete, but on the first part
    SA0.3@1  hand the hidden states to the stage of part 2
    O0.3@1   offload: what the plan sends of subsequence 3 in part 1 leaves for the host tier
    RG0.3@1  post the receive of the gradient of part 1's output
    T0.3@1   fetch: what was offloaded comes back
    Z0.0@1   clear the dK and dV of part 1, before the backward of sequence 0
    B0.3@1   backward; needs RG0.3@1, but on the last part, and T0.3@1 if there was O0.3@1
    SG0.3@1  hand the gradient to the stage of part 0

A part is a run of consecutive layers; part k belongs to stage k mod PP. Receives are posted
`receive_ahead` computes ahead and complete later; a send is taken as a rendezvous (NCCL), in order
per pair, even where a transport would buffer it.

Where a part is lent (`plan/msp.py`), a subsequence has slices, each on a rank of its own:

    BW0.0/1@0  post the receive of part 0's weights, on the rank of slice 1
    LW0.0/1@0  lend them to it
    F0.0/1@0   forward of slice 1, together with the other slices: K and V go to all of them
    SA0.0/1>0@0  the tokens that slice 1 of part 0 and slice 0 of part 1 have in common
    B0.0/1@0   backward of slice 1, together with the others: dK and dV go to whose they are
    GW0.0/1@0  give the weights' gradients back; CW posts their receive, AW adds them
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple


class Op(Enum):
    RECEIVE_ACTIVATION = "RA"
    FORWARD = "F"
    SEND_ACTIVATION = "SA"
    OFFLOAD = "O"
    RECEIVE_GRADIENT = "RG"
    FETCH = "T"
    CLEAR = "Z"
    BACKWARD = "B"
    SEND_GRADIENT = "SG"
    LEND = "LW"
    BORROW = "BW"
    GIVE_BACK = "GW"
    COLLECT = "CW"
    ADD = "AW"


RECEIVES = (Op.RECEIVE_ACTIVATION, Op.RECEIVE_GRADIENT, Op.BORROW, Op.COLLECT)
SENDS = (Op.SEND_ACTIVATION, Op.SEND_GRADIENT, Op.LEND, Op.GIVE_BACK)


class Instruction(NamedTuple):
    """One thing a stage does, to one subsequence of one sequence, in one part of the model.

    slice: which slice of the subsequence, where the part is lent. other: of a message, the slice at
    its other end; of a lending, 1 in the backward.
    """

    op: Op
    sequence: int
    subsequence: int
    part: int
    slice: int = 0
    other: int = 0

    def __str__(self) -> str:
        slices = f"/{self.slice}" if self.slice or self.other else ""
        slices += f">{self.other}" if self.other else ""
        return f"{self.op.value}{self.sequence}.{self.subsequence}{slices}@{self.part}"


_TEXT = re.compile(rf"({'|'.join(op.value for op in Op)})(\d+)\.(\d+)(?:/(\d+)(?:>(\d+))?)?@(\d+)")


def parse_instruction(text: str) -> Instruction:
    """The inverse of str(). Raises ValueError on anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an instruction: {text!r}; write for example F0.3@1")
    sequence, subsequence, mine, other, part = (int(number or 0) for number in match.groups()[1:])
    return Instruction(Op(match[1]), sequence, subsequence, part, mine, other)
