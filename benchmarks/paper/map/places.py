"""The places of the map: length, GPUs, hardware, and at most one changed rate or memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.workloads import of_flags
from sppo.config.hardware import Hardware, load_hardware
from sppo.config.sizes import GIB, length_name, parse_tokens
from sppo.config.workload import Workload

MODEL = "gpt-7b"

LENGTHS = ("512K", "1M", "2M", "4M", "8M", "16M", "32M", "64M")

TOKENS_PER_GPU = (16, 32, 64, 128)
"""In K."""

LEAST_GPUS, MOST_GPUS = 8, 4096

FURTHER_LENGTHS = ("1M", "4M", "16M", "64M")
"""Lengths of the map on hardware other than HARDWARE[0]."""

HARDWARE = ("a100-80g", "h100-80g", "h200-141g", "b200-180g", "b200fa4-180g")

ANCHORS = (("1M", 32), ("2M", 64), ("4M", 128))
"""The points of the paper's fig. 1."""

SCARCE = (("1M", 8), ("4M", 32))
"""Where a GPU has 128K tokens: memory is short, and copies are many."""

SEARCHED = (ANCHORS[0], *SCARCE, ("2M", 32), *ANCHORS[1:], ("512K", 16))
"""Where the peers' grids are searched, on HARDWARE[0]; the cheapest and most telling first."""

TRIED = (
    *(("1M", 16), ("2M", 32), ("1M", 8), ("4M", 32), ("512K", 16), ("1M", 32), ("1M", 64)),
    *(("2M", 64), ("4M", 64), ("4M", 128), ("8M", 128), ("8M", 256), ("16M", 512)),
)
"""Where a few settings of each peer are emulated, on HARDWARE[0]."""

PEERS = ("native", "deepspeed", "megatron")

GB = 10**9

Kind = Literal["", "host link", "network", "device memory"]

LINK_FACTORS = (0.25, 0.5, 2.0, 4.0, 16.0)
"""Of the host link and of the network, at ANCHORS[0] and at SCARCE."""

CHANGE_FACTORS = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Place:
    """One step of one sequence.

    changed, value: what differs from the profile, in GB/s of one rank (host link: both ways) or in
    GiB of its device; "" and 0 where nothing does.
    """

    seq: str
    gpus: int
    hardware: str = HARDWARE[0]
    changed: Kind = ""
    value: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.changed) != (self.value > 0):
            raise ValueError(f"{self.name}: a change needs a kind and a positive value")

    @property
    def tokens(self) -> int:
        """Tokens of the sequence."""
        return parse_tokens(self.seq)

    @property
    def cell(self) -> str:
        """ "1M, 32 GPUs"."""
        return f"{self.seq}, {self.gpus:,} GPUs"

    @property
    def name(self) -> str:
        """ "1M, 32 GPUs, a100-80g, host link 25 GB/s"."""
        change = f", {self.change}" if self.changed else ""
        return f"{self.cell}, {self.hardware}{change}"

    @property
    def change(self) -> str:
        """ "host link 25 GB/s"; "" where nothing is changed."""
        if not self.changed:
            return ""
        unit = "GiB" if self.changed == "device memory" else "GB/s"
        return f"{self.changed} {self.value:.4g} {unit}"

    @property
    def unchanged(self) -> Place:
        """The same with the profile as committed."""
        return replace(self, changed="", value=0.0)

    @property
    def profile(self) -> Hardware:
        """The profile, with the change of a link."""
        profile, rate = load_hardware(self.hardware), self.value * GB
        if self.changed == "host link":
            return replace(profile, d2h_bytes_per_second=rate, h2d_bytes_per_second=rate)
        if self.changed == "network":
            return replace(profile, internode_bytes_per_second=rate)
        return profile

    @property
    def workload(self) -> Workload:
        """The step, with the change of the memory."""
        workload = of_flags(model=MODEL, seq=self.seq, gpus=self.gpus, hardware=self.hardware)
        if self.changed == "device memory":
            return workload.with_device_memory(round(self.value * GIB))
        return workload


def value_of(profile: Hardware, changed: Kind) -> float:
    """The unchanged value of a profile, in GB/s or GiB."""
    match changed:
        case "host link":
            return profile.d2h_bytes_per_second / GB
        case "network":
            assert profile.internode_bytes_per_second is not None, "a GPU has a network"
            return profile.internode_bytes_per_second / GB
        case "device memory":
            return profile.usable_device_bytes / GIB
    raise ValueError("nothing is changed")


def cells(lengths: tuple[str, ...] = LENGTHS) -> Iterator[tuple[str, int]]:
    """(length, GPUs) of the map, by length, the fewest GPUs first."""
    for seq in lengths:
        for share in reversed(TOKENS_PER_GPU):
            gpus = parse_tokens(seq) // (share * 1024)
            if LEAST_GPUS <= gpus <= MOST_GPUS:
                yield seq, gpus


def on_the_map(hardware: str) -> list[Place]:
    """The places of the map on one kind of hardware, nothing changed."""
    lengths = LENGTHS if hardware == HARDWARE[0] else FURTHER_LENGTHS
    return [Place(seq=seq, gpus=gpus, hardware=hardware) for seq, gpus in cells(lengths)]


def priced() -> list[Place]:
    """Where one more GB/s or GiB is priced: the anchors, and the first anchor on all hardware."""
    anchors = [Place(seq=seq, gpus=gpus) for seq, gpus in ANCHORS]
    return anchors + [replace(anchors[0], hardware=name) for name in HARDWARE[1:]]


def changes_of(place: Place) -> Iterator[Place]:
    """One more GB/s or GiB, then half and twice the host link and the device memory."""
    kinds: tuple[Kind, ...] = ("host link", "device memory")
    for changed in kinds:
        value = value_of(place.profile, changed)
        for changed_value in (value + 1, *(factor * value for factor in CHANGE_FACTORS)):
            yield replace(place, changed=changed, value=changed_value)


def on_links() -> Iterator[Place]:
    """The second axis: other host links and networks."""
    kinds: tuple[Kind, ...] = ("host link", "network")
    for seq, gpus in (ANCHORS[0], *SCARCE):
        place = Place(seq=seq, gpus=gpus)
        for changed in kinds:
            if changed == "network" and gpus <= place.profile.ranks_per_node:
                continue
            value = value_of(place.profile, changed)
            for factor in LINK_FACTORS:
                yield replace(place, changed=changed, value=factor * value)


def planned() -> list[Place]:
    """All places with a plan of SPPO, the anchors and the map of HARDWARE[0] first."""
    places = [*priced(), *on_the_map(HARDWARE[0])]
    for place in priced():
        places += changes_of(place)
    for hardware in HARDWARE[1:]:
        places += on_the_map(hardware)
    places += on_links()
    return list(dict.fromkeys(places))


def searched() -> list[Place]:
    """All places where the peers' grids are searched."""
    return [Place(seq=seq, gpus=gpus) for seq, gpus in SEARCHED]


def tried() -> list[Place]:
    """All places where a few settings of the peers are emulated."""
    return [Place(seq=seq, gpus=gpus) for seq, gpus in TRIED]


def tokens_per_gpu(place: Place) -> str:
    """ "32K"."""
    return length_name(place.tokens // place.gpus)
