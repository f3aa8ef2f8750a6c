"""Addresses of nodes: the one that node 0 listens on, free ports, network interfaces."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time

import psutil

from benchmarks.nodes.place import Place

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"

NAME_SECONDS = 0.5
"""How often a name is looked up that may come later."""


def resolved(host: str) -> str:
    """The IPv4 address of a host. Raises ValueError for an unknown name."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError:
        raise ValueError(
            f"the host {host} of the endpoint has no IPv4 address here; give an address of node 0"
        ) from None


def wait_for_name(place: Place, seconds: float) -> None:
    """Wait until the host of a pod has an address: its name may come later than the pod.

    After so many seconds `resolved` says that there is none. Other names are never awaited.
    """
    deadline = time.monotonic() + seconds
    while place.source and time.monotonic() < deadline:
        try:
            resolved(place.host)
        except ValueError:
            time.sleep(NAME_SECONDS)
        else:
            return


def listen(place: Place) -> socket.socket:
    """A socket that listens on the endpoint's address only. Raises ValueError with the cure."""
    address = resolved(place.host)
    if is_loopback(address) and not _says_loopback(place.host):
        raise ValueError(
            f"on node 0 the name {place.host} is the loopback address {address}, which no other "
            "node reaches; give --endpoint with another address of node 0 (`ip -4 addr`)"
        )
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, place.port))
        listener.listen(place.count)
    except OSError as error:
        listener.close()
        raise ValueError(f"--endpoint {place.endpoint}: {_cure(error, place)}") from None
    return listener


def _cure(error: OSError, place: Place) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {place.port} is taken on node 0; give another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "node 0 does not have this address; give one of its own (`ip -4 addr`)"
    return f"{error.strerror}; give another endpoint"


def _says_loopback(host: str) -> bool:
    """Whether the user names loopback, for a run of several nodes on one machine."""
    return host == "localhost" or host.startswith("127.")


def is_loopback(address: str) -> bool:
    """Whether an address is of 127.0.0.0/8."""
    return ipaddress.ip_address(address).is_loopback


def free_port(address: str) -> int:
    """A port of an address of this node that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def interface(address: str) -> str | None:
    """The name of the interface with this address; None where no interface has it."""
    by_name = {
        name: {entry.address for entry in entries if entry.family == socket.AF_INET}
        for name, entries in psutil.net_if_addrs().items()
    }
    exact = [name for name, addresses in by_name.items() if address in addresses]
    if exact:
        return exact[0]
    if is_loopback(address):
        loops = [name for name, known in by_name.items() if any(map(is_loopback, known))]
        return loops[0] if loops else None
    return None


def network_variables(address: str) -> dict[str, str]:
    """Variables with which the ranks of a node talk over this address, unless the user chose.

    gloo would take the address of the machine's own name, which may be a loopback address. NCCL
    chooses by itself.
    """
    name = interface(address)
    if GLOO_INTERFACE in os.environ or name is None:
        return {}
    return {GLOO_INTERFACE: name}
