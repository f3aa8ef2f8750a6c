"""Why NVIDIA GPUs lower their clocks, from NVML (nvidia-ml-py, of the extra `cuda`)."""

from __future__ import annotations

from contextlib import suppress

from benchmarks import nvml as gpus

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


def lowered() -> set[str]:
    """The reasons that hold now on any visible GPU; those read before an error of NVML."""
    nvml = gpus.start()
    if nvml is None:
        return set()
    reasons: set[str] = set()
    with suppress(nvml.NVMLError, AttributeError):  # another release may lack a name
        for handle in gpus.visible_gpus(nvml):
            reasons |= words(int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
    return reasons
