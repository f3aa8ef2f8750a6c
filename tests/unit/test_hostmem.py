"""The host tier: a stack of slots in one arena, and what happens when it is full."""

from __future__ import annotations

import pytest
import torch

from sppo.errors import HostTierFull
from sppo.hostmem import HostArena
from sppo.hostslots import slot_bytes

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
