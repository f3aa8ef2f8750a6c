"""Puts `nccl.NcclRank` in the place of torch.distributed in `sppo.comm`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch.distributed

from sppo.comm import collectives, mesh, messages, nccl
from tests.cuda.fake.nccl import NcclRank

_thread = threading.local()
_process: list[NcclRank] = []


def nccl_of_this_thread() -> NcclRank:
    """That of the rank; a thread of autograd has none of its own and takes the process's."""
    rank: NcclRank | None = getattr(_thread, "rank", None)
    return rank or _process[-1]


class _StandIn:
    """torch.distributed, with what an NcclRank has in front."""

    def __getattr__(self, name: str) -> Any:
        rank = nccl_of_this_thread()
        return getattr(rank if hasattr(rank, name) else torch.distributed, name)


@contextmanager
def in_this_thread(rank: NcclRank) -> Iterator[None]:
    _thread.rank = rank
    try:
        yield
    finally:
        del _thread.rank


@contextmanager
def in_this_process(rank: NcclRank) -> Iterator[None]:
    _process.append(rank)
    try:
        yield
    finally:
        _process.remove(rank)


@contextmanager
def simulated_nccl() -> Iterator[None]:
    """Inside, `sppo.comm` calls the NcclRank of its thread."""
    stand_in = _StandIn()
    with ExitStack() as patches:
        for module in (collectives, mesh, messages, nccl):
            patches.enter_context(patch.object(module, "dist", stand_in))
        for name in ("all_gather", "reduce_scatter"):

            def call(*args: Any, name: str = name, **kwargs: Any) -> Any:
                return getattr(nccl_of_this_thread(), name)(*args, **kwargs)

            patches.enter_context(patch.object(collectives, f"_{name}", call))
        yield
