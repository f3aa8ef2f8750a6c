"""The CUDA path of what the CPU tests check: flash kernels, the pinned arena, its stream."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sppo.attention import attend, attend_backward
from sppo.hostmem import HostArena

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("kv_heads", [8, 2])
def test_prefix_attention_equals_full_causal_attention(kv_heads: int) -> None:
    device, lengths = torch.device("cuda"), (256, 192, 64)
    tokens = sum(lengths)
    torch.manual_seed(0)

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, tokens, 64, device=device, dtype=torch.bfloat16)

    query, keys, values, grad = draw(8), draw(kv_heads), draw(kv_heads), draw(8)
    exact = [tensor.double().requires_grad_() for tensor in (query, keys, values)]
    expected = F.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True)
    wanted = torch.autograd.grad(expected, exact, grad.double())
    key_gradients = torch.zeros_like(keys, dtype=torch.float32)
    value_gradients = torch.zeros_like(values, dtype=torch.float32)
    saved = []
    start = 0
    for length in lengths:
        span = slice(start, start + length)
        out, logsumexp = attend(
            query[:, :, span], keys[:, :, : span.stop], values[:, :, : span.stop], start
        )
        saved.append((span, out, logsumexp))
        torch.testing.assert_close(out.double(), expected[:, :, span], atol=2e-2, rtol=2e-2)
        start = span.stop
    for span, out, logsumexp in reversed(saved):
        query_gradient = attend_backward(
            grad[:, :, span],
            query[:, :, span],
            keys[:, :, : span.stop],
            values[:, :, : span.stop],
            out,
            logsumexp,
            span.start,
            key_gradients[:, :, : span.stop],
            value_gradients[:, :, : span.stop],
        )
        torch.testing.assert_close(
            query_gradient.double(), wanted[0][:, :, span], atol=4e-2, rtol=4e-2
        )
    torch.testing.assert_close(key_gradients.double(), wanted[1], atol=8e-2, rtol=4e-2)
    torch.testing.assert_close(value_gradients.double(), wanted[2], atol=8e-2, rtol=4e-2)


def test_the_arena_brings_back_every_bit_and_frees_the_device() -> None:
    device = torch.device("cuda")
    arena = HostArena(64 * 1024**2, device)
    original = torch.randint(0, 256, (48 * 1024**2,), dtype=torch.uint8, device=device)
    expected = original.clone()
    before = torch.cuda.memory_allocated(device)
    slot = arena.store(original)
    del original
    torch.cuda.synchronize(device)
    assert torch.cuda.memory_allocated(device) <= before - 48 * 1024**2
    back = torch.empty(48 * 1024**2, dtype=torch.uint8, device=device)
    arrived = arena.load(slot, back)
    assert arrived is not None
    arrived.wait()
    assert torch.equal(back, expected)
    assert arena.used_bytes == 0
