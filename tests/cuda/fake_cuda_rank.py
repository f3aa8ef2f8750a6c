"""One rank of a case on fake CUDA tensors: the engine's CUDA code, its accesses in order or not.

    LD_PRELOAD=FAKE_CUDA.so python -m tests.cuda.fake_cuda_rank CASE:RANK[:FAULT]...

Prints a JSON list, a report for each argument. `reports` starts such a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.emulation import fake_world
from sppo.comm.mesh import join_groups
from sppo.engine.context import EngineContext
from sppo.engine.trainer import Trainer
from sppo.plan.plan import StepPlans
from sppo.plan.weights import weight_shapes
from tests.cuda.cases import BY_NAME, Case
from tests.cuda.fake import streams, torch_distributed
from tests.cuda.fake.memory import DeviceMemory, recorded_streams
from tests.cuda.fake.nccl import NcclRank
from tests.cuda.fake.watch import Watch
from tests.cuda.planted_faults import FAULTS
from tests.cuda.ranks_in_threads import STEPS, workload_of

DEVICE = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]


def host_memory(size_bytes: int, device: torch.device) -> torch.Tensor:
    """A fake host tier."""
    return torch.empty(size_bytes, dtype=torch.uint8, device="cpu")


def run_rank(case: Case, rank: int) -> dict[str, Any]:
    """Two steps of a rank: operators, accesses of side streams, and findings by words."""
    plan = case.plan(2)
    workload = workload_of(plan, "cuda", "bfloat16")
    gpu = streams.Gpu()
    memory = DeviceMemory(gpu, ignore_frees_of="cpu")
    nccl = NcclRank(rank=rank, ranks=plan.ranks, memory=memory)
    watch = Watch(memory)
    with ExitStack() as stack:
        stack.enter_context(fake_world.rank_of(rank, workload.cluster))
        stack.enter_context(streams.simulated_streams())
        stack.enter_context(torch_distributed.simulated_nccl())
        stack.enter_context(recorded_streams(lambda: memory))
        stack.enter_context(streams.in_this_process(gpu))
        stack.enter_context(torch_distributed.in_this_process(nccl))
        shapes = weight_shapes(plan.model)
        weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        stack.enter_context(watch)
        context = EngineContext(
            device=DEVICE,
            dtype=torch.bfloat16,
            label=memory.label,
            take_host=host_memory,
        )
        plans = StepPlans(whole=plan, short=plan)
        trainer = Trainer(workload, plans, weights, context, join_groups(plan))
        shape = (plan.sequences_per_step, plan.sequence_tokens + 1)
        for _ in range(STEPS):
            trainer.step(torch.zeros(shape, dtype=torch.int64))
        memory.closed = True
    return {
        "case": case.name,
        "rank": rank,
        "operators": watch.operators,
        "accesses": memory.accesses,
        "side_accesses": memory.side_accesses,
        "findings": {str(finding): count for finding, count in memory.findings.items()},
    }


def report(name: str) -> dict[str, Any]:
    """That of "CASE:RANK" or "CASE:RANK:FAULT"."""
    case, rank, *faults = name.split(":")
    with pytest.MonkeyPatch.context() as patch:
        for fault in faults:
            FAULTS[fault].plant(patch)
        return {**run_rank(BY_NAME[case], int(rank)), "name": name}


def reports(
    library: Path, names: Sequence[str], module: str = "tests.cuda.fake_cuda_rank"
) -> dict[str, dict[str, Any]]:
    """By name, the reports of one process with the fake device. Raises if it fails."""
    command = [sys.executable, "-m", module, *names]
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {each["name"]: each for each in json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    warnings.simplefilter("ignore")
    print(json.dumps([report(name) for name in sys.argv[1:]]))


if __name__ == "__main__":
    main()
