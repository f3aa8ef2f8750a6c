"""What every copy waits for, seen by stand-ins of CUDA's streams and events.

Two directions copy at the same time. Copies that use the same memory are in order all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from sppo.config.models import gpt
from sppo.model.mixers.hosted_layer import HostedLayer, KvRing
from sppo.model.mixers.kv_block import KvFormat
from sppo.model.mixers.kv_cache import KvCache
from sppo.offload import host_memory
from sppo.offload.host_memory import CopyStreams, HostArena

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
MODEL = gpt("gpt-one", layers=1, hidden=8, heads=1, vocabulary=8)
BLOCK, BLOCKS = 4, 5
TOKENS = BLOCK * (BLOCKS + 1)


class Event:
    def __init__(self, machine: Machine, before: frozenset[int]) -> None:
        self.machine = machine
        self.before = before

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self.machine.compute).before |= self.before


class Stream:
    """`before`: numbers of all operations that end before the stream's next one begins."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.before: set[int] = set()

    def wait_stream(self, other: Stream) -> None:
        self.before |= other.before

    def record_event(self) -> Event:
        return Event(self.machine, frozenset(self.before))


@dataclass
class Machine:
    """Operations in the order of their calls: the storage each wrote, and what ended before it."""

    names: list[str] = field(default_factory=list)
    before: list[frozenset[int]] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.compute = self.current = Stream(self)

    def make(self, device: torch.device) -> Stream:
        self.streams.append(Stream(self))
        return self.streams[-1]

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        self.current, before = stream, self.current
        yield
        self.current = before

    def run(self, name: str) -> int:
        number = len(self.names)
        self.names.append(name)
        self.before.append(frozenset(self.current.before))
        self.current.before.add(number)
        return number

    def copy(self, into: Tensor, source: Tensor) -> list[tuple[Tensor, Tensor]]:
        kinds = {
            id(stream): kind for stream, kind in zip(self.streams, ("H2D", "D2H"), strict=True)
        }
        self.run(kinds[id(self.current)])
        return [(into, source)]

    def numbers(self, name: str) -> list[int]:
        return [number for number, each in enumerate(self.names) if each == name]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(torch.cuda, "Stream", made.make)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made.compute)
    monkeypatch.setattr(torch.cuda, "stream", made.on)
    monkeypatch.setattr(host_memory, "contiguous_pieces", made.copy)
    return made


def arena_of(size_bytes: int) -> HostArena:
    return HostArena(size_bytes, CUDA, lambda size, device: torch.zeros(size, dtype=torch.uint8))


def data(size_bytes: int = 512) -> Tensor:
    return torch.ones(size_bytes, dtype=torch.uint8)


def test_a_reload_waits_for_its_own_offload_and_for_no_later_one(machine: Machine) -> None:
    arena = arena_of(4096)
    arena.store(data())
    arena.load(arena.store(data()), data())
    arena.store(data())
    assert machine.names[:4] == ["D2H", "D2H", "H2D", "D2H"]
    assert {0, 1} <= machine.before[2]
    assert 3 not in machine.before[2]


def test_a_slot_is_written_again_after_it_was_read(machine: Machine) -> None:
    arena = arena_of(4096)
    arena.load(arena.store(data()), data())
    store_again = len(machine.names)
    arena.store(data(300))
    assert 1 in machine.before[store_again], "the reload of the slot"


def hosted(machine: Machine) -> HostedLayer:
    form = KvFormat(
        model=MODEL,
        device=CPU,
        dtype=torch.float32,
        take_host=lambda size, device: torch.zeros(size, dtype=torch.uint8),
    )
    ring = KvRing(form, BLOCK, slots=3)
    ring.copies = CopyStreams(CUDA)
    (layer,) = KvCache(form, 1, TOKENS, ring).layers
    assert isinstance(layer, HostedLayer)
    return layer


def backward(machine: Machine, layer: HostedLayer) -> list[int]:
    """Numbers of the computes of one pass over the prefix."""
    computes = []
    for block in layer.prefix_gradients(BLOCK * BLOCKS, BLOCK):
        computes.append(machine.run("compute"))
        block.key_gradients.add_(1.0)
        block.value_gradients.add_(2.0)
    return computes


def test_both_directions_copy_during_a_compute(machine: Machine) -> None:
    """While block n is computed on, n + 1 is loaded and the gradients of n - 1 are offloaded."""
    layer = hosted(machine)
    backward(machine, layer)  # after it dK and dV are read too
    machine.names.clear()
    machine.before.clear()
    for stream in (machine.compute, *machine.streams):
        stream.before.clear()
    layer.gradients.written = layer._kept
    layer.ring._offloads = [layer._kept] * 3
    computes = backward(machine, layer)
    loads, offloads = machine.numbers("H2D"), machine.numbers("D2H")
    assert (len(loads), len(offloads)) == (4 * BLOCKS, 2 * BLOCKS)
    for block in range(BLOCKS):
        of_block = loads[4 * block : 4 * block + 4]
        waited = set().union(*(machine.before[load] for load in of_block)).intersection(offloads)
        free = offloads[: 2 * max(0, block - 2)]
        assert waited == set(free), f"block {block} waits for gradients of other slots"
        assert all(load in machine.before[computes[block]] for load in of_block)
        own = offloads[2 * block : 2 * block + 2]
        assert all(computes[block] in machine.before[offload] for offload in own)
        later = loads[4 * (block + 2) :]
        assert not any(machine.before[own[0]].intersection(later))


def test_a_pass_waits_for_the_gradients_of_the_pass_before(machine: Machine) -> None:
    layer = hosted(machine)
    backward(machine, layer)
    done = machine.numbers("D2H")
    backward(machine, layer)
    first_load = next(n for n in machine.numbers("H2D") if n > done[-1])
    assert set(done) <= machine.before[first_load]
    assert torch.equal(layer.host.key_gradients[:, : BLOCK * BLOCKS], torch.full((1, 20, 8), 2.0))
    assert torch.equal(layer.host.value_gradients[:, : BLOCK * BLOCKS], torch.full((1, 20, 8), 4.0))


def test_k_and_v_are_read_after_they_were_kept(machine: Machine) -> None:
    layer = hosted(machine)
    layer.keep(0, torch.ones(1, BLOCK, 8), torch.ones(1, BLOCK, 8))
    kept = machine.numbers("D2H")
    assert len(list(layer.prefix(BLOCK, BLOCK))) == 1
    for load in machine.numbers("H2D"):
        assert set(kept) <= machine.before[load]
