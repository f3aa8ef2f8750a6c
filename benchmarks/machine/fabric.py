"""The network of a node from Linux's /sys: InfiniBand and EFA ports, interfaces, kernel modules.

No addresses: neither of the network nor of the hardware.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.file_names import printable
from benchmarks.machine.files import children, line_of, linked_name, number_of

SYS = Path("/sys")

MOST_ENTRIES = 64
"""A node of containers has hundreds of interfaces."""

VIRTUAL = re.compile("(lo$|veth|docker|br-|virbr|cni|cali|flannel|lxc|tunl|kube|dummy|ifb)")
"""Beginnings of names of interfaces that no launch uses."""

MODULES = ("nvidia_peermem", "gdrdrv", "nvidia_fs", "efa", "efa_nv_peermem")
"""Kernel modules that let a network card reach a GPU's memory."""

_HARDWARE_ADDRESS = re.compile("[0-9a-fA-F]{12,}")


def describe_fabric(sys: Path = SYS) -> dict[str, Any]:
    """Ports of /sys/class/infiniband (EFA's too), interfaces and modules, as JSON values."""
    return {
        "infiniband": _infiniband(sys / "class" / "infiniband")[:MOST_ENTRIES],
        "interfaces": _interfaces(sys / "class" / "net")[:MOST_ENTRIES],
        "modules": [name for name in MODULES if (sys / "module" / name).exists()],
    }


def _infiniband(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "device": _name(device),
            "port": printable(port.name),
            "state": _after_colon(line_of(port / "state")),
            "rate": line_of(port / "rate"),
            "link_layer": line_of(port / "link_layer"),
            "driver": linked_name(device / "device" / "driver"),
            "firmware": line_of(device / "fw_ver"),
            "board": line_of(device / "board_id"),
            "numa_node": number_of(device / "device" / "numa_node"),
        }
        for device in children(folder)
        for port in children(device / "ports")
    ]


def _interfaces(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "name": _name(interface),
            "state": line_of(interface / "operstate"),
            "speed_mbits": number_of(interface / "speed") or None,
            "mtu": number_of(interface / "mtu"),
            "driver": linked_name(interface / "device" / "driver"),
            "numa_node": number_of(interface / "device" / "numa_node"),
        }
        for interface in children(folder)
        if not VIRTUAL.match(interface.name)
    ]


def _name(path: Path) -> str:
    """A device's name. Some names hold the hardware's address: enx0a1b2c3d4e5f."""
    return _HARDWARE_ADDRESS.sub("<address>", printable(path.name))


def _after_colon(text: str | None) -> str | None:
    """The word of "4: ACTIVE"."""
    return text.rpartition(":")[2].strip() if text else None
