"""What the machine is, and the device memory that is left after the driver's context."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from benchmarks.gpu.measure import context_bytes
from benchmarks.gpu.place import Place
from benchmarks.machine import system
from benchmarks.worker.libraries import cuda_versions
from sppo.kernels.attention import registered_flash_attention


def describe(place: Place) -> dict[str, Any]:
    """Versions, the device, its free memory after the context, and the host's limits."""
    values: dict[str, Any] = {
        "device": place.device_name,
        "profile": place.profile,
        "torch": str(torch.__version__),
        "versions": cuda_versions(place.device),
        "flash_attention_registry": registered_flash_attention(),
        "host_available_bytes": psutil.virtual_memory().available,
        "limits": system.limits(),
        "context_bytes": context_bytes(place),
    }
    if place.on_cuda:
        free, total = torch.cuda.mem_get_info(place.device)
        values |= {
            "capability": list(torch.cuda.get_device_capability(place.device)),
            "device_free_bytes": free,
            "device_total_bytes": total,
        }
    return values
