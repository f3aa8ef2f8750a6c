"""Copies between a device and the host tier: alone, together, and the locking of pages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.place import Place
from sppo.offload.host_memory import CopyStreams, host_memory


@dataclass(frozen=True, kw_only=True)
class CopyRates:
    """Bytes/s of each direction alone and of both at once, and seconds to take a GiB of host.

    pinned: whether the pages are locked, as they are for a GPU.
    """

    d2h: float
    h2d: float
    d2h_together: float
    h2d_together: float
    host_seconds_per_gib: float
    pinned: bool


def copy_rates(place: Place) -> CopyRates:
    """Measure with the engine's own copy streams and host memory."""
    size = place.sizes.copied_bytes
    start = time.perf_counter()
    hosts = [host_memory(size, place.device) for _ in range(2)]
    taking = (time.perf_counter() - start) * 2**30 / (2 * size)
    devices = [torch.zeros(size, dtype=torch.uint8, device=place.device) for _ in range(2)]
    streams = CopyStreams(place.device)
    alone = {
        "d2h": _rate(place, size, lambda: streams.copy_to_host(devices[0], hosts[0])),
        "h2d": _rate(place, size, lambda: streams.copy_to_device(devices[1], hosts[1])),
    }
    together = _together(place, size, devices, hosts)
    streams.wait_for_offloads()
    return CopyRates(
        **alone,
        d2h_together=together,
        h2d_together=together,
        host_seconds_per_gib=taking,
        pinned=place.on_cuda,
    )


def _rate(place: Place, size_bytes: int, action: Callable[[], object]) -> float:
    """Bytes/s, the median of the repeats after one that warms up."""
    place.seconds_of(action)
    seconds = [place.seconds_of(action) for _ in range(place.sizes.repeats)]
    return size_bytes / max(statistics.median(seconds), 1e-9)


def _together(place: Place, size_bytes: int, devices: list[Tensor], hosts: list[Tensor]) -> float:
    """Bytes/s of one direction while both copy: on streams of their own, which do not wait."""
    if not place.on_cuda:
        return _rate(
            place, size_bytes, lambda: (hosts[0].copy_(devices[0]), devices[1].copy_(hosts[1]))
        )
    streams = [torch.cuda.Stream(place.device) for _ in range(2)]

    def both() -> None:
        with torch.cuda.stream(streams[0]):
            hosts[0].copy_(devices[0], non_blocking=True)
        with torch.cuda.stream(streams[1]):
            devices[1].copy_(hosts[1], non_blocking=True)

    return _rate(place, size_bytes, both)
