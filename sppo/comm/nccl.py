"""Options of NCCL's groups, and the first use of their communicators.

NCCL makes a communicator at its first message or collective, and all its ranks wait inside that
call. Behind a receive that is posted ahead this can hang (NVIDIA/nccl issues 783, 1766).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

MESSAGE_CTAS = 4
"""Thread blocks of a message: each takes a processor of the GPU while its kernel waits.

NCCL's own number for two H100 is 32 of 132 processors. The number is also that of the channels,
whose buffers the planner charges (`connection_bytes` of a profile).
"""


def is_nccl(group: dist.ProcessGroup | None = None) -> bool:
    """Whether the group (None: the default one) sends over NCCL."""
    return bool(dist.get_backend(group) == "nccl")


def options(ctas: int | None = None) -> Any:
    """Options of a group with high-priority streams, which no copy shares with them.

    ctas: the thread blocks of each message; None leaves them to NCCL.
    """
    chosen = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
    if ctas is not None:
        chosen.config.min_ctas = chosen.config.max_ctas = ctas
    return chosen


def message_group(timeout: timedelta | None) -> dist.ProcessGroup:
    """A group of all ranks for messages between two of them."""
    group: dist.ProcessGroup = dist.new_group(timeout=timeout, pg_options=options(MESSAGE_CTAS))
    return group


def team_group(groups: Sequence[list[int]], timeout: timedelta | None) -> dist.ProcessGroup:
    """This rank's group of these, for collectives."""
    chosen = options() if is_nccl() else None
    made = dist.new_subgroups_by_enumeration(groups, timeout=timeout, pg_options=chosen)
    group: dist.ProcessGroup = made[0]
    return group


def use_once(group: dist.ProcessGroup, device: torch.device) -> None:
    """Make the communicator of a group by one small collective of all its ranks."""
    dist.all_reduce(torch.zeros(1, device=device), group=group)
