"""The operating system of a node, its memory domains and its limits."""

from __future__ import annotations

import platform
import re
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.file_names import printable
from benchmarks.machine.files import children, line_of, number_of, raw_text

SYS = Path("/sys")
NVIDIA = "0x10de"
DISPLAY = "0x03"
"""The beginning of the PCI class of graphics and compute cards."""


def os_name() -> str:
    """ "Debian GNU/Linux 12 (bookworm)"; the kernel's name where the file is missing."""
    with suppress(OSError, ValueError):
        return printable(platform.freedesktop_os_release()["PRETTY_NAME"])
    return platform.system()


def kernel() -> str:
    """Release and build of the kernel: "6.1.0-18-amd64 #1 SMP ..."."""
    return printable(f"{platform.release()} {platform.version()}".strip())


def libc() -> str | None:
    """ "glibc 2.36"; None where it is unknown."""
    with suppress(OSError):
        return " ".join(filter(None, platform.libc_ver())) or None
    return None


def numa(sys: Path = SYS) -> list[dict[str, Any]]:
    """The memory domains: cores, bytes, distances, PCI places of NVIDIA's GPUs."""
    gpus = _gpu_places(sys)
    return [
        {
            "node": int(node.name.removeprefix("node")),
            "cpus": line_of(node / "cpulist"),
            "memory_bytes": _memory_bytes(node),
            "distances": _numbers(line_of(node / "distance")),
            "gpus": [place for place, numa_node in gpus if node.name == f"node{numa_node}"],
        }
        for node in _nodes(sys)
    ]


def _nodes(sys: Path) -> list[Path]:
    folder = sys / "devices" / "system" / "node"
    nodes = [path for path in children(folder, "node*") if path.name[4:].isdecimal()]
    return sorted(nodes, key=lambda path: int(path.name[4:]))


def _memory_bytes(node: Path) -> int | None:
    total = re.search(r"MemTotal:\s*(\d+) kB", raw_text(node / "meminfo") or "")
    return int(total[1]) * 1024 if total else None


def _numbers(text: str | None) -> list[int]:
    return [int(word) for word in (text or "").split() if word.isdecimal()]


def _gpu_places(sys: Path) -> list[tuple[str, int | None]]:
    return [
        (printable(device.name), number_of(device / "numa_node"))
        for device in children(sys / "bus" / "pci" / "devices")
        if line_of(device / "vendor") == NVIDIA
        and (line_of(device / "class") or "").startswith(DISPLAY)
    ]


def limits() -> dict[str, Any]:
    """Limits of this process, and bytes of /dev/shm. "unlimited" without a limit."""
    shared = None
    with suppress(OSError):
        shared = shutil.disk_usage("/dev/shm").total
    return {
        "locked_memory_bytes": _limit(resource.RLIMIT_MEMLOCK),
        "open_files": _limit(resource.RLIMIT_NOFILE),
        "shared_memory_bytes": shared,
    }


def _limit(kind: int) -> int | str:
    soft, _ = resource.getrlimit(kind)
    return "unlimited" if soft == resource.RLIM_INFINITY else soft
