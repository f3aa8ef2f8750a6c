"""Whether a GPU has room for a plan once its ranks are connected."""

from __future__ import annotations

import torch

from sppo.config.sizes import format_bytes
from sppo.plan.plan import StageMemory


def check_room(memory: StageMemory, device: torch.device) -> None:
    """Raise torch's out-of-memory error, in one line, where less is free than the plan still takes.

    Called after all communicators are made: they and the context lie outside torch's allocator, as
    do other processes on the device. Most tensors come later.
    """
    untracked = memory.untracked
    needed_bytes = memory.total + untracked.scratch + untracked.workspaces + untracked.process
    free_bytes, _ = torch.cuda.mem_get_info(device)
    room_bytes = free_bytes + torch.cuda.memory_reserved(device)
    if room_bytes < needed_bytes:
        raise torch.OutOfMemoryError(
            f"{format_bytes(room_bytes)} of {device} are left after the ranks were connected and "
            f"the plan takes {format_bytes(needed_bytes)}: end other processes on the GPU, or "
            f"lower the limit by {format_bytes(needed_bytes - room_bytes)} with --device-memory"
        )
