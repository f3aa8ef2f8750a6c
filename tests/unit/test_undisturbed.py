"""A step under a dispatch mode must not spoil what is compiled for the steps that are timed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.worker.step_isolation import uncompiled


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
