"""The host tier: a stack of slots in one arena, and what happens when it is full."""

from __future__ import annotations

import pytest
import torch

from sppo.config.errors import HostTierFull
from sppo.config.sizes import slot_bytes
from sppo.offload.host_memory import HostArena, contiguous_pieces, host_memory

CPU = torch.device("cpu")


def test_last_out_is_first_in_and_every_bit_comes_back() -> None:
    arena = HostArena(slot_bytes(1000) + slot_bytes(300), CPU)
    first, second = (torch.randint(0, 256, (size,), dtype=torch.uint8) for size in (1000, 300))
    slots = [arena.store(first), arena.store(second)]
    assert arena.used_bytes == arena.peak_bytes == 1024 + 512
    for slot, original in zip(reversed(slots), (second, first), strict=True):
        back = torch.empty_like(original)
        arena.load(slot, back)
        assert torch.equal(back, original)
    assert arena.used_bytes == 0


def test_a_copy_is_made_of_contiguous_pieces() -> None:
    host, device = torch.zeros(3, 10, 4), torch.rand(2, 3, 8, 4)
    cases = [
        (host[:, 2:8], device[1, :, :6], 3),
        (host[:, 2:8], torch.rand(3, 6, 4), 3),
        (host, torch.rand(3, 10, 4), 1),
        (host[0, 2:5], torch.rand(3, 4), 1),
    ]
    for into, source, pieces in cases:
        copies = contiguous_pieces(into, source)
        assert len(copies) == pieces
        for piece, its_source in copies:
            assert piece.is_contiguous()
            assert its_source.is_contiguous()
            piece.copy_(its_source)
        assert torch.equal(into, source)


class Runtime:
    """A stand-in for CUDA's runtime that only remembers locked pages."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:
        self.locked[address] = size_bytes
        return self.code

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0


def test_pages_are_locked_as_long_as_any_view_lives() -> None:
    runtime = Runtime(0)
    memory = host_memory(10_000, torch.device("cuda"), runtime)
    assert runtime.locked == {memory.data_ptr(): 10_000}
    view = memory[5000:].view(torch.float32)
    del memory
    view.fill_(1.0)
    assert runtime.locked
    del view
    assert not runtime.locked


def test_a_host_that_locks_no_pages_says_so() -> None:
    with pytest.raises(HostTierFull, match=r"4096 bytes .locking its pages: 2; see"):
        host_memory(4096, torch.device("cuda"), Runtime(2))


def test_a_full_tier_says_what_is_missing() -> None:
    arena = HostArena(1024, CPU)
    arena.store(torch.zeros(700, dtype=torch.uint8))
    with pytest.raises(HostTierFull, match="512 more do not fit; raise host_memory_bytes"):
        arena.store(torch.zeros(400, dtype=torch.uint8))
    assert arena.used_bytes == 768


def test_only_the_topmost_slot_may_come_back() -> None:
    arena = HostArena(4096, CPU)
    lower = arena.store(torch.zeros(256, dtype=torch.uint8))
    arena.store(torch.zeros(256, dtype=torch.uint8))
    with pytest.raises(AssertionError, match="not the top"):
        arena.load(lower, torch.empty(256, dtype=torch.uint8))
