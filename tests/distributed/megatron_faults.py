"""Faults of Megatron-Core that its patches mend: how to meet them in a launch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from baselines.megatron.settings import MegatronSettings
from sppo.config.workload import Workload


@contextmanager
def without_patch(name: str) -> Iterator[None]:
    """For systems that are set up inside; a patch that was applied before stays."""
    from baselines.megatron import patches

    rest = tuple(change for change in patches.PATCHES if change.id != name)
    assert len(rest) == len(patches.PATCHES) - 1
    with patch.object(patches, "PATCHES", rest):
        yield


def error_without_the_layernorm_patch(train_with_norms: Callable[[], object]) -> str:
    from megatron.core import parallel_state

    with without_patch("layernorm-recompute"):
        try:
            train_with_norms()
        except NameError as error:
            parallel_state.destroy_model_parallel()
            return str(error)
    return ""


@contextmanager
def messages_in_batches() -> Iterator[None]:
    """Systems that are set up inside interleave with the messages of both directions in a batch."""
    from baselines.megatron import model

    options = model.interleaving_options

    def batched(workload: Workload, settings: MegatronSettings) -> dict[str, Any]:
        return options(workload, settings) | {"overlap_p2p_comm": False, "batch_p2p_comm": True}

    with patch.object(model, "interleaving_options", batched):
        yield


def held_after_deallocation(rank: int) -> tuple[int, int, bool]:
    """Numbers that a send still reads once Megatron has deallocated its tensor: without the patch,
    with it; and whether a wait lets go of them.
    """
    from megatron.core.pipeline_parallel import p2p_communication, schedules

    class Request:
        """Reads its tensor some time after it was made, as gloo does."""

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def wait(self) -> None: ...

    def send(function: Any) -> tuple[Any, Any]:
        out = torch.ones(100, requires_grad=True) * 2
        storage = weakref.ref(out.untyped_storage())
        none = dict.fromkeys(("tensor_send_prev", "tensor_recv_prev", "tensor_recv_next"))
        neighbours = {"prev_pipeline_rank": 1 - rank, "next_pipeline_rank": 1 - rank}
        group = torch.distributed.group.WORLD
        with patch.object(torch.distributed, "isend", lambda tensor, dst, group: Request(tensor)):
            requests = function(tensor_send_next=out, **none, **neighbours, group=group)
        schedules.deallocate_output_tensor(out, True)
        return requests["send_next"], storage

    patched = p2p_communication._p2p_ops
    unheld, _ = send(patched.__wrapped__)
    held, storage = send(patched)
    counts = unheld.tensor.numel(), held.held[0].tensor.numel()
    held.wait()
    held.wait()
    return *counts, storage() is None
