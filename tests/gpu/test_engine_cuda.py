"""The CUDA path of what the CPU tests check: flash kernels, the pinned arena, its stream."""

from __future__ import annotations

import pytest
import torch

from sppo.offload.host_memory import HostArena
from tests.attention_cases import check_against_full_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("block_tokens", [0, 96, 128])
def test_prefix_attention_equals_full_causal_attention(kv_heads: int, block_tokens: int) -> None:
    check_against_full_attention(
        torch.device("cuda"),
        torch.bfloat16,
        kv_heads=kv_heads,
        block_tokens=block_tokens,
        tolerance=8e-2,
    )


def test_the_arena_reloads_every_bit_and_frees_the_device() -> None:
    device = torch.device("cuda")
    arena = HostArena(64 * 1024**2, device)
    original = torch.randint(0, 256, (48 * 1024**2,), dtype=torch.uint8, device=device)
    expected = original.clone()
    before = torch.cuda.memory_allocated(device)
    slot = arena.store(original)
    del original
    assert torch.cuda.memory_allocated(device) == before, "freed before the copy was done"
    arena.copies.wait_for_offloads()
    assert torch.cuda.memory_allocated(device) <= before - 48 * 1024**2
    back = torch.empty(48 * 1024**2, dtype=torch.uint8, device=device)
    arena.load(slot, back)
    arena.copies.h2d_event().wait()
    assert torch.equal(back, expected)
    assert arena.used_bytes == 0
