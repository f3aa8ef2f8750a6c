"""A step under a dispatch mode must not spoil what is compiled for the steps that are timed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.accounting.visible import spare_live_objects, visible_tensors
from benchmarks.worker.step_isolation import no_garbage_collection, uncompiled


class Watching(TorchDispatchMode):
    """Any mode."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "compiled"), [("cuda", 2), ("cpu", 1)])
def test_what_is_compiled_stays_compiled_after_an_accounted_step(
    device: str, compiled: int
) -> None:
    """Without it (as on a CPU, where nothing is compiled) the second length never is."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> GraphModule:
        graphs.append(graph)
        return graph

    @torch.compile(backend=backend, dynamic=False)
    def fused(x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x) * 2

    fused(torch.ones(64))
    with uncompiled(torch.device(device)), Watching():
        fused(torch.ones(4096))
    fused(torch.ones(4096))
    torch._dynamo.reset()
    assert len(graphs) == compiled


class Circle:
    """An object that only the garbage collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_collections_spare_what_is_alive_and_find_what_a_later_step_leaves() -> None:
    """Without this, each step waits for a walk over all objects of all libraries."""
    gc.unfreeze()  # `tests/conftest.py` spares all objects too
    frozen_before = gc.get_freeze_count()
    old = Circle()
    tensor = torch.ones(3)
    try:
        spare_live_objects()
        assert gc.get_freeze_count() > frozen_before + 10_000
        assert any(other is tensor for other in visible_tensors()), "accounting sees it"
        gone = weakref.ref(old)
        del old
        with no_garbage_collection():
            assert gone() is not None, "it is out of later collections"
            left = weakref.ref(Circle())
            assert left() is not None, "nothing is collected within a step"
        with no_garbage_collection():
            assert left() is None, "what a step leaves is collected before the next"
    finally:
        gc.unfreeze()
        spare_live_objects()
