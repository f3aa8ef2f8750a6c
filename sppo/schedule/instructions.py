"""A schedule is data: per stage, the list of typed instructions it will run.

    RECV_F0.3@1    post the receive of the hidden states of subsequence 3 (sequence 0) for chunk 1
    F0.3@1         forward through chunk 1; needs RECV_F0.3@1 complete, but on the first chunk
    SEND_F0.3@1    send the hidden states to the stage of chunk 2
    OFFLOAD0.3@1   copy saved tensors of subsequence 3 in chunk 1 to the host tier (D2H)
    RECV_B0.3@1    post the receive of the gradient of chunk 1's output
    RELOAD0.3@1    copy them back (H2D)
    ZERO_DKV0.0@1  zero dK and dV of chunk 1, before the backward of sequence 0
    B0.3@1         backward; needs RECV_B0.3@1, but on the last chunk, and RELOAD0.3@1 if there was
                   OFFLOAD0.3@1
    SEND_B0.3@1    send the gradient to the stage of chunk 0

Names are those of torch.distributed.pipelining, where there are any. A model chunk (`part` in code
and JSON) is a run of consecutive layers; chunk k belongs to stage k mod PP. Receives are posted
`receive_ahead` computes ahead and complete later; a send is taken as a rendezvous (NCCL), in order
per pair, even where a transport would buffer it.

Where MSP splits a subsequence (`plan/msp.py`), it has slices, each on a rank of its own:

    RECV_W0.0/1@0   post the receive of chunk 0's weights, on the rank of slice 1 (a helper)
    SEND_W0.0/1@0   the owner sends them
    F0.0/1@0        forward of slice 1, together with the other slices: K and V go to all of them
    SEND_F0.0/1>0@0 the tokens that slice 1 of chunk 0 and slice 0 of chunk 1 have in common
    B0.0/1@0        backward of slice 1, together with the others: dK and dV go to their owners
    SEND_DW0.0/1@0  the helper sends the gradients of the weights
    RECV_DW0.0/1@0  the owner posts their receive; ADD_DW0.0/1@0 adds them to its own
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple


class Op(StrEnum):
    """The kinds of instructions; the values are their names in text."""

    RECV_F = "RECV_F"
    FORWARD = "F"
    SEND_F = "SEND_F"
    OFFLOAD = "OFFLOAD"
    RECV_B = "RECV_B"
    RELOAD = "RELOAD"
    ZERO_DKV = "ZERO_DKV"
    BACKWARD = "B"
    SEND_B = "SEND_B"
    SEND_W = "SEND_W"
    RECV_W = "RECV_W"
    SEND_DW = "SEND_DW"
    RECV_DW = "RECV_DW"
    ADD_DW = "ADD_DW"

    @property
    def lane(self) -> str:
        """The lane that the instruction occupies: "compute", "d2h", "h2d" or "p2p"."""
        if self in (Op.FORWARD, Op.BACKWARD, Op.ZERO_DKV, Op.ADD_DW):
            return "compute"
        return {Op.OFFLOAD: "d2h", Op.RELOAD: "h2d"}.get(self, "p2p")


RECEIVES = frozenset({Op.RECV_F, Op.RECV_B, Op.RECV_W, Op.RECV_DW})
SENDS = frozenset({Op.SEND_F, Op.SEND_B, Op.SEND_W, Op.SEND_DW})


class Instruction(NamedTuple):
    """One step of a stage for one subsequence of one sequence in one model chunk.

    slice: which slice of the subsequence, where MSP splits it. other: of a message, the slice at
    its other end; of weights, 1 in the backward.
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


_OLDER = {
    "RA": Op.RECV_F,
    "SA": Op.SEND_F,
    "O": Op.OFFLOAD,
    "RG": Op.RECV_B,
    "T": Op.RELOAD,
    "Z": Op.ZERO_DKV,
    "SG": Op.SEND_B,
    "LW": Op.SEND_W,
    "BW": Op.RECV_W,
    "GW": Op.SEND_DW,
    "CW": Op.RECV_DW,
    "AW": Op.ADD_DW,
}
"""Names in timelines that were written before 2026-11-28."""

_OPS = {**{op.value: op for op in Op}, **_OLDER}
_TEXT = re.compile(rf"({'|'.join(_OPS)})(\d+)\.(\d+)(?:/(\d+)(?:>(\d+))?)?@(\d+)")


def parse_instruction(text: str) -> Instruction:
    """The inverse of str(). Raises ValueError on anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an instruction: {text!r}; write for example F0.3@1")
    sequence, subsequence, number, other, part = (int(digits or 0) for digits in match.groups()[1:])
    return Instruction(_OPS[match[1]], sequence, subsequence, part, number, other)
