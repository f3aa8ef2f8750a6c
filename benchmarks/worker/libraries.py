"""What a rank says of its device and libraries. A container may bring others than pip's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.cuda import nccl

from baselines.protocol import Adapter
from benchmarks.environment import cpu_model
from benchmarks.job import Job


def rank_environment(job: Job, adapter: Adapter, device: torch.device) -> dict[str, Any]:
    """Versions, device and threads of this rank."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    versions = {"torch": torch.__version__, **cuda_versions(device), **adapter.versions()}
    return {"versions": versions, "device": name, "threads": job.threads_per_rank}


def cuda_versions(device: torch.device) -> dict[str, str]:
    """Versions of CUDA, NCCL and cuDNN that this torch uses; empty on a CPU."""
    if device.type != "cuda":
        return {}
    readings: dict[str, Callable[[], object]] = {
        "cuda": lambda: torch.version.cuda,
        "nccl": nccl.version,
        "cudnn": torch.backends.cudnn.version,
    }
    versions = {name: _text(read) for name, read in readings.items()}
    return {name: text for name, text in versions.items() if text}


def _text(read: Callable[[], object]) -> str:
    """ "2.27.5" of (2, 27, 5); "" where this build of torch lacks the library."""
    try:
        value = read()
    except (AttributeError, ImportError, OSError, RuntimeError):
        return ""
    parts = value if isinstance(value, tuple) else (value,)
    return ".".join(str(part) for part in parts if part is not None)
