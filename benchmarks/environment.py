"""The environment of a record: machine, packages, commit, command. No secrets. No torch."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.file_names import printable
from benchmarks.machine import system
from benchmarks.machine.container import container
from benchmarks.machine.fabric import describe_fabric
from benchmarks.machine.packages import installed_packages
from benchmarks.machine.variables import recorded_variables
from benchmarks.nvml import describe_driver, describe_gpus
from sppo.config.folders import PACKAGES

CHECKOUT = PACKAGES
"""The folder of the packages, installed or checked out."""

LIBRARIES = ("torch", "megatron-core", "deepspeed", "numpy", "scipy", "msgspec", "wandb", "triton")

LAUNCHER_PREFIXES = ("PET_", "TORCHELASTIC_")
"""Variables that a launcher outside sets for its own job. No user has names of this kind."""

RANK_VARIABLES = frozenset(
    (
        *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE"),
        *("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    )
)
"""The place of this process in a job outside: the exact names that torchrun sets."""


def describe_environment() -> dict[str, Any]:
    """Machine, versions, commit, command and variables as JSON values. Sizes in bytes.

    Of the installed packages only their number and the digest of their list.
    """
    commit, dirty = git_state(CHECKOUT)
    packages = installed_packages()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "os": system.os_name(),
        "kernel": system.kernel(),
        "libc": system.libc(),
        "container": container(),
        "cpu_model": cpu_model(),
        "cores": available_cores(),
        "numa": system.numa(),
        "gpus": gpu_names(),
        "gpu_settings": describe_gpus(),
        "gpu_driver": describe_driver(),
        "fabric": describe_fabric(),
        "memory_bytes": psutil.virtual_memory().total,
        "limits": system.limits(),
        "versions": library_versions(),
        "packages": {"count": len(packages.packages), "sha256": packages.sha256},
        "commit": commit,
        "dirty": dirty,
        "command": shlex.join(map(printable, [Path(sys.argv[0]).name, *sys.argv[1:]])),
        "variables": recorded_variables(os.environ),
    }


def library_versions() -> dict[str, str]:
    """Installed versions of `LIBRARIES`, read without an import; absent libraries are left out."""
    versions = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def import_path(folder: Path = CHECKOUT) -> dict[str, str]:
    """Variables with which a Python process imports the packages of a folder, by default these.

    `python -m` searches the current folder first, and so does an empty entry of PYTHONPATH.
    `benchmarks` and `baselines` are common folder names.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, inherited)]),
        "PYTHONSAFEPATH": "1",
    }


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of ours: this one's, these variables, and no other launcher's.

    torchrun takes every option from a `PET_` variable too: `PET_NNODES=2`, which a cluster's
    operator sets, would have a launch on one node wait for another.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in RANK_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }
    return {**inherited, **variables}


def available_cores() -> int:
    """Cores that this process may use; in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The name of the processor on Linux, else the architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_mhz() -> float | None:
    """The clock of the first processor now; None where Linux does not say."""
    text = _cpuinfo("cpu MHz")
    return float(text) if text else None


def _cpuinfo(key: str) -> str | None:
    """The first value of a key in Linux's list of processors."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    value = re.search(rf"^{key}\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return value[1] if value else None


def gpu_names() -> list[str]:
    """Names of the machine's NVIDIA GPUs, from nvidia-smi."""
    listing = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return listing.splitlines() if listing else []


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout at `root`, and whether files differ from it; None without a checkout.

    A `root` inside another checkout (site-packages) has no commit.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None, None
    status = _git(root, "status", "--porcelain")
    return _git(root, "rev-parse", "HEAD"), None if status is None else bool(status)


def _git(root: Path, *arguments: str) -> str | None:
    return _output("git", "-C", str(root), *arguments)


def _output(*command: str) -> str | None:
    """The output of the command; None if it is missing or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
