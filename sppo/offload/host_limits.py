"""Bytes of host memory that this process may still take: of the machine and of its cgroups.

Linux ends a process that takes more, without a word. So the host tier asks first. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sppo.config.errors import HostTierFull
from sppo.config.sizes import KIB, format_bytes

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")

CURE = "lower host_memory_bytes or use more ranks"


def available_bytes() -> int | None:
    """The least that MemAvailable and the memory limits of all cgroups of this process leave.

    Cached files count as free, because Linux gives them up. None where the system tells neither.
    """
    known = [*_of_machine(), *_of_groups()]
    return max(0, min(known)) if known else None


def check_available(size_bytes: int, whose: str = "the host tier") -> None:
    """Raise HostTierFull, in one line with the cure, where less host memory is left than that."""
    left_bytes = available_bytes()
    if left_bytes is not None and size_bytes > left_bytes:
        raise HostTierFull(
            f"{whose} takes {format_bytes(size_bytes)} of host memory and "
            f"{format_bytes(left_bytes)} are left (MemAvailable, or the limit of this "
            f"process's cgroup); {CURE}"
        )


def _of_machine() -> Iterator[int]:
    for name, value in _numbers(PROC / "meminfo"):
        if name == "MemAvailable:":
            yield value * KIB


def _of_groups() -> Iterator[int]:
    """Bytes left in every cgroup of this process that has a limit, of version 2 or 1."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names, root = ("memory.max", "memory.current", ""), GROUPS
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
            root = GROUPS / "memory"
        else:
            continue
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(root):
                yield from _left_in(folder, *names)


def _left_in(folder: Path, limit: str, usage: str, prefix: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such file, or "max"
        limit_bytes = int((folder / limit).read_text(encoding="ascii"))
        used_bytes = int((folder / usage).read_text(encoding="ascii"))
        cached = {f"{prefix}inactive_file", f"{prefix}active_file"}
        files = [value for name, value in _numbers(folder / "memory.stat") if name in cached]
        yield limit_bytes - used_bytes + sum(files)


def _numbers(path: Path) -> Iterator[tuple[str, int]]:
    """(name, number) of every line of a file of the system; nothing where it cannot be read."""
    lines: list[str] = []
    with suppress(OSError):
        lines = path.read_text(encoding="ascii").splitlines()
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[1].isdigit():
            yield words[0], int(words[1])
