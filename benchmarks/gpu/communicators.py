"""Groups of one rank: whether each kind of message starts, and the memory of a communicator."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.gpu.place import Place

GROUPS = 4
"""Groups whose memory is measured; the first also starts the library."""


@contextmanager
def world_of_one(place: Place) -> Iterator[None]:
    """A default process group of this process alone, NCCL on a GPU, and no network."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            "nccl" if place.on_cuda else "gloo",
            init_method=f"file://{Path(folder) / 'meeting'}",
            rank=0,
            world_size=1,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def communicator_bytes(place: Place) -> int | None:
    """Device bytes of one more group after its first message; None on a CPU."""
    if not place.on_cuda:
        return None
    with world_of_one(place):
        used = [_used_bytes(place, _started(place)) for _ in range(GROUPS)]
    grown = [after - before for before, after in pairwise(used)]
    return max(0, sum(grown) // len(grown))


def _started(place: Place) -> Any:
    """A new group after its first all-reduce."""
    group = dist.new_group([0])
    dist.all_reduce(torch.ones(1, device=place.device), group=group)
    place.finish()
    return group


def _used_bytes(place: Place, group: Any) -> int:
    """Bytes in use on the device, without torch's own; the group is alive."""
    free, total = torch.cuda.mem_get_info(place.device)
    return int(total - free - torch.cuda.memory_reserved(place.device))


def collective_seconds(place: Place, size_bytes: int) -> dict[str, float]:
    """Seconds of each collective of the engine in a world of one: launch and copy, no link."""
    shard = torch.zeros(size_bytes // 4, device=place.device)
    into = torch.empty_like(shard)
    group = dist.new_group([0])
    actions = {
        "all_reduce": lambda: dist.all_reduce(shard, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(into, shard, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(into, shard, group=group),
    }
    for action in actions.values():
        action()
    return {name: place.seconds_of(action) for name, action in actions.items()}
