"""Run one function as N gloo ranks in real processes, and get every rank's return value."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

IMPORTED = ("torch", "torch.distributed", "benchmarks.emulation.counts", "tests.rank_imports")
"""What ranks need, imported once: each is a fork of a process that only imports."""


def _main(
    rank: int,
    ranks: int,
    folder: str,
    environment: dict[str, str],
    function: Callable[..., Any],
    args: tuple,
) -> None:
    os.environ.update({**environment, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    try:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        result = function(rank, ranks, *args)
        dist.barrier()
        torch.save(result, Path(folder) / f"result-{rank}.pt")
        dist.destroy_process_group()
    except BaseException:
        (Path(folder) / f"error-{rank}.txt").write_text(traceback.format_exc())
        raise


def run_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """`function(rank, ranks, *args)` on every rank; it must be a module-level function.

    All ranks hash strings alike. Ranks of torchrun do not: tests/bench launches such ranks. Raises
    AssertionError with the traceback of every failed rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(list(IMPORTED))
        processes = [
            context.Process(
                target=_main, args=(rank, ranks, folder, dict(os.environ), function, args)
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        errors = sorted(Path(folder).glob("error-*.txt"))
        assert not errors, "\n".join(f"{path.name}\n{path.read_text()}" for path in errors)
        assert all(process.exitcode == 0 for process in processes)
        return [
            torch.load(Path(folder) / f"result-{rank}.pt", weights_only=False)
            for rank in range(ranks)
        ]
