"""NVIDIA GPUs as NVML describes them (nvidia-ml-py, of the extra `cuda`): handles and settings.

Every reading that a driver, a MIG slice or a container refuses is None, except a GPU's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.machine.files import raw_text

MILLIWATTS = 1000

UNKNOWN_GPU = "unknown GPU"
"""The name of a GPU that NVML does not name."""


def start() -> Any | None:
    """The module `pynvml`, initialised; None without the package or without a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def visible_gpus(nvml: Any) -> Iterator[Any]:
    """Handles of the GPUs that CUDA shows to this process: those of CUDA_VISIBLE_DEVICES, or all.

    The order is that of the PCI bus, as in CUDA where all GPUs of a node are alike. Raises
    NVMLError.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        for number in range(nvml.nvmlDeviceGetCount()):
            yield nvml.nvmlDeviceGetHandleByIndex(number)
        return
    for name in filter(None, (part.strip() for part in named.split(","))):
        if name.isdecimal():
            yield nvml.nvmlDeviceGetHandleByIndex(int(name))
        elif name != "-1":
            yield nvml.nvmlDeviceGetHandleByUUID(name)


def describe_gpus() -> list[dict[str, Any]]:
    """The settings of each visible GPU that change its speed. Empty without NVML.

    Clocks are in MHz: the highest, and those that applications ask for (`nvidia-smi -ac`).
    """
    nvml = start()
    if nvml is None:
        return []
    with suppress(nvml.NVMLError, AttributeError):
        return [_settings(nvml, handle) for handle in visible_gpus(nvml)]
    return []


def describe_driver(proc: Path = Path("/proc")) -> dict[str, Any] | None:
    """Version of NVIDIA's driver, and the newest CUDA that it knows; None without a driver.

    Without NVML's package the kernel module names its version.
    """
    nvml = start()
    if nvml is not None:
        version: str | None = None
        cuda: str | None = None
        with suppress(nvml.NVMLError, AttributeError):
            version = _text(nvml.nvmlSystemGetDriverVersion())
        with suppress(nvml.NVMLError, AttributeError):
            number = int(nvml.nvmlSystemGetCudaDriverVersion())
            cuda = f"{number // 1000}.{number % 1000 // 10}"
        return {"version": version, "cuda": cuda}
    text = raw_text(proc / "driver" / "nvidia" / "version") or ""
    module = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return {"version": module[1], "cuda": None} if module else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _settings(nvml: Any, handle: Any) -> dict[str, Any]:
    def read(name: str, *arguments: int) -> Any:
        with suppress(nvml.NVMLError, AttributeError):  # another release may lack a name
            value = getattr(nvml, name)(handle, *arguments)
            return value.decode() if isinstance(value, bytes) else value
        return None

    graphics, memory = 0, 2  # NVML_CLOCK_GRAPHICS, NVML_CLOCK_MEM
    limit_milliwatts = read("nvmlDeviceGetEnforcedPowerLimit")
    persistence = read("nvmlDeviceGetPersistenceMode")
    mig = read("nvmlDeviceGetMigMode")
    driver = None
    with suppress(nvml.NVMLError, AttributeError):
        driver = nvml.nvmlSystemGetDriverVersion()
    return {
        "name": read("nvmlDeviceGetName") or UNKNOWN_GPU,
        "driver": driver.decode() if isinstance(driver, bytes) else driver,
        "graphics_clock_max_mhz": read("nvmlDeviceGetMaxClockInfo", graphics),
        "memory_clock_max_mhz": read("nvmlDeviceGetMaxClockInfo", memory),
        "graphics_clock_wanted_mhz": read("nvmlDeviceGetApplicationsClock", graphics),
        "memory_clock_wanted_mhz": read("nvmlDeviceGetApplicationsClock", memory),
        "power_limit_watts": None if limit_milliwatts is None else limit_milliwatts / MILLIWATTS,
        "persistence_mode": None if persistence is None else bool(persistence),
        "mig_mode": None if mig is None else bool(mig[0]),
    }


def processes_per_gpu(gpus: int) -> list[int] | None:
    """How many processes compute on each of the first visible GPUs now; None if NVML cannot say."""
    nvml = start()
    if nvml is None:
        return None
    try:
        handles = [handle for handle, _ in zip(visible_gpus(nvml), range(gpus), strict=False)]
        return [len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) for handle in handles]
    except (nvml.NVMLError, AttributeError):
        return None
