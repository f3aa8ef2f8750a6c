"""Peers on fake CUDA tensors: their libraries' real code, in the branches of CUDA.

    LD_PRELOAD=FAKE_CUDA.so python -m tests.cuda.fake_cuda_peer CASE[:FAULT]...

Prints a JSON list, a report for each argument.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from baselines import registry
from baselines.deepspeed import offloaded
from baselines.protocol import Context
from benchmarks.emulation import fake_world
from sppo.plan.weights import weight_shapes
from tests.cuda.fake import driver, streams
from tests.cuda.fake.memory import DeviceMemory, recorded_streams
from tests.cuda.fake.watch import Watch
from tests.cuda.peer_cases import BY_NAME, TOKENS, PeerCase

DEVICE = torch.device("cuda", 0)
FIRST_STEP_TOKENS = 64
"""Of the throw-away first step."""

COPY = torch.ops.aten.copy_.default


class Calls(Watch):
    """Counts operators by name, and what side streams copy between host and device."""

    def __init__(self, memory: DeviceMemory) -> None:
        super().__init__(memory)
        self.names: Counter[str] = Counter()
        self.copied_bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.names[func.name()] += 1
        gpu = self.memory.gpu
        if func is COPY and gpu.current_stream is not gpu.main:
            into, source = args[:2]
            way = f"{source.device.type} to {into.device.type}"
            self.copied_bytes[way] += into.nbytes
        return super().__torch_dispatch__(func, types, args, kwargs)


def places(tensors: Any) -> list[str]:
    """The devices and dtypes of all tensors in a tree, in words."""
    leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor) and leaf.dim()]
    return sorted({f"{leaf.device} {leaf.dtype}".replace("torch.", "") for leaf in leaves})


def run_peer(case: PeerCase) -> dict[str, Any]:
    """The throw-away first step and a whole one, of the last rank."""
    workload, rank = case.workload, case.ranks - 1
    gpu = streams.Gpu()
    memory = DeviceMemory(gpu, ignore_frees_of="cpu")
    calls = Calls(memory)
    with ExitStack() as stack:
        stack.enter_context(fake_world.rank_of(rank, workload.cluster))
        pinned = stack.enter_context(driver.answered())
        stack.enter_context(streams.simulated_streams())
        stack.enter_context(streams.in_this_process(gpu))
        stack.enter_context(recorded_streams(lambda: memory))
        shapes = weight_shapes(case.model)
        weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        stack.enter_context(calls)
        adapter = registry.load(case.system)
        settings = msgspec.convert(case.settings, adapter.settings_type)
        context = Context(
            rank=rank,
            ranks=case.ranks,
            device=DEVICE,
            dtype=torch.bfloat16,
            label=memory.label,
        )
        system = adapter.prepare(workload, settings, weights, context)
        for tokens in (FIRST_STEP_TOKENS, TOKENS):
            calls.names.clear()
            calls.copied_bytes.clear()
            system.step(torch.zeros((1, tokens + 1), dtype=torch.int64))
        report = {
            "name": case.name,
            "operators": dict(calls.names),
            "copied_bytes": dict(calls.copied_bytes),
            "pinned_bytes": pinned.size_bytes,
            "streams": len(gpu.streams),
            "side_accesses": memory.side_accesses,
            "unordered": [str(each) for each in memory.findings if "order" in each.kind],
            "places": {kind: places(list(held)) for kind, held in system.tensors().items()},
            "inside": _inside(system),
        }
        memory.closed = True
        system.close()
    if case.system == "deepspeed":
        from deepspeed.utils import groups

        groups._WORLD_GROUP = None  # of the world that has just ended
    return report


def _inside(system: Any) -> dict[str, Any]:
    """What DeepSpeed made: its optimizers, and the counts of its offload of hidden states."""
    engine = getattr(system, "engine", None)
    if engine is None:
        return {}
    stats = getattr(system.offload, "stats", None)
    return {
        "optimizer": type(engine.optimizer).__name__,
        "basic_optimizer": type(engine.basic_optimizer).__name__,
        "offload": None if stats is None else vars(stats),
    }


def report(name: str) -> dict[str, Any]:
    """That of "CASE" or "CASE:FAULT"."""
    case, *faults = name.split(":")
    with pytest.MonkeyPatch.context() as patch:
        # DeepSpeedCPUAdam is machine code, which reads and writes real numbers.
        patch.setattr(offloaded, "_why_no_cpu_adam", lambda: "fake tensors")
        for fault in faults:
            FAULTS[fault](patch)
        return {**run_peer(BY_NAME[case]), "name": name}


def _not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's compute stream does not wait for restored hidden states."""
    patch.setattr(streams.Stream, "wait_event", lambda self, event: None)


FAULTS = {"a restored hidden state is not waited for": _not_waited_for}


def main() -> None:
    warnings.simplefilter("ignore")
    print(json.dumps([report(name) for name in sys.argv[1:]]))


if __name__ == "__main__":
    main()
