"""The GPUs of a launch while it runs, from NVML: lowered clocks, processes of others."""

from __future__ import annotations

from contextlib import suppress

from benchmarks import nvml as nvidia

REASONS = {
    0x04: "sw power cap",
    0x08: "hw slowdown",
    0x20: "sw thermal",
    0x40: "hw thermal",
    0x80: "power brake",
}
"""Bits of NVML's clocks event reasons that are about heat or power (NVML API reference)."""


def words(bits: int) -> set[str]:
    """The names of the set bits; other bits (idle, application clocks) are left out."""
    return {name for bit, name in REASONS.items() if bits & bit}


def lowered_clocks() -> set[str]:
    """The reasons that hold now on any visible GPU; those read before an error of NVML."""
    nvml = nvidia.start()
    if nvml is None:
        return set()
    reasons: set[str] = set()
    with suppress(nvml.NVMLError, AttributeError):  # another release may lack a name
        for handle in nvidia.visible_gpus(nvml):
            reasons |= words(int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    return reasons


def foreign_processes(ranks: int) -> int | None:
    """The most processes beside the one rank on a GPU of this launch, now.

    ranks: those of this node, one a GPU. None where NVML does not show a process of ours: without
    NVML, in some containers, on MIG slices. Processes are counted, because a container has other
    process numbers than the driver.
    """
    counts = nvidia.processes_per_gpu(ranks)
    if not counts or min(counts) == 0:
        return None
    return max(counts) - 1
