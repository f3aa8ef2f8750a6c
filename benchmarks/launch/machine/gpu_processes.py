"""Processes of others on the GPUs of a launch, from NVML (nvidia-ml-py, of the extra `cuda`)."""

from __future__ import annotations

from benchmarks.nvml import processes_per_gpu


def foreign_processes(ranks: int) -> int | None:
    """The most processes beside the one rank on a GPU of this launch, now.

    ranks: those of this node, one a GPU. None where NVML does not show a process of ours: without
    NVML, in some containers, on MIG slices. Processes are counted, because a container has other
    process numbers than the driver.
    """
    counts = processes_per_gpu(ranks)
    if not counts or min(counts) == 0:
        return None
    return max(counts) - 1
