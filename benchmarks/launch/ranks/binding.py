"""Whether torchrun binds ranks to the cores beside their GPUs."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "SPPO_BENCH_NUMA_BINDING"
"""The variable with torchrun's --numa-binding, such as "node"; "none" binds nothing."""

DOMAINS = Path("/sys/devices/system/node")


def numa_binding(device: str) -> str | None:
    """The binding of a launch on this kind of device; None for no binding.

    The user's choice counts. Without one, ranks on CUDA are bound to their GPU's memory domain
    where the machine has several, and torch and `numactl` are there to bind them.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return None if chosen == "none" else chosen
    several = len(list(DOMAINS.glob("node[0-9]*"))) > 1
    if device != "cuda" or not several or shutil.which("numactl") is None:
        return None
    return "node" if _torch_binds() else None


def _torch_binds() -> bool:
    """Whether this torch has `--numa-binding`. torch is not imported."""
    spec = find_spec("torch")
    return spec is not None and spec.origin is not None and _has_numa(Path(spec.origin).parent)


def _has_numa(torch_folder: Path) -> bool:
    return (torch_folder / "numa").is_dir()
