"""Attention of a subsequence against resident and hosted K and V, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sppo.config.models import llama
from sppo.model.mixers.flash_blocks import attend, attend_backward
from sppo.model.mixers.hosted_layer import KvRing
from sppo.model.mixers.kv_block import KvFormat
from sppo.model.mixers.kv_cache import KvCache


def check_against_full_attention(
    device: torch.device,
    dtype: torch.dtype,
    *,
    kv_heads: int,
    block_tokens: int,
    tolerance: float,
    lengths: tuple[int, ...] = (256, 192, 64),
    all_summed: bool = False,
) -> None:
    """Subsequences of these lengths equal full causal attention, forward and backward.

    block_tokens: of hosted K and V, 0 for resident ones. tolerance: absolute and relative.
    all_summed: dK and dV of the last subsequence are sums too, as those of slices are.
    """
    heads, width = 8, 64
    tokens = sum(lengths)
    model = llama(
        "case", layers=1, hidden=heads * width, heads=heads, kv_heads=kv_heads, ffn=8, vocabulary=8
    )
    form = KvFormat(model=model, device=device, dtype=dtype)
    ring = KvRing(form, block_tokens) if block_tokens else None
    last = [each.squeeze(0).fill_(torch.nan) for each in form.gradients(1, lengths[-1], host=False)]
    summed = tokens if all_summed else tokens - lengths[-1]
    cache = KvCache(form, 1, tokens, ring, summed_tokens=summed, last=last).layers[0]
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        made = torch.randn(count, tokens, width, generator=generator, dtype=torch.float64)
        return made.to(device=device, dtype=dtype)

    query, keys, values, grad = draw(heads), draw(kv_heads), draw(kv_heads), draw(heads)
    exact = [tensor.double().unsqueeze(0).requires_grad_() for tensor in (query, keys, values)]
    expected = F.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True)
    gradients_expected = torch.autograd.grad(expected, exact, grad.double().unsqueeze(0))

    def assert_close(computed: torch.Tensor, exactly: torch.Tensor) -> None:
        torch.testing.assert_close(computed.double(), exactly, atol=tolerance, rtol=tolerance)

    saved = []
    start = 0
    for length in lengths:
        span = slice(start, start + length)
        own = cache.place(keys[:, span], start)
        own[0].copy_(keys[:, span])
        own[1].copy_(values[:, span])
        cache.keep(start, *own)
        out, logsumexp = attend(query[:, span], [own], cache.prefix(start, length))
        saved.append((span, out, logsumexp))
        assert_close(out, expected[:, :, span])
        start = span.stop
    for span, out, logsumexp in reversed(saved):
        blocks = cache.own_gradients(span.start, span.stop - span.start)
        query_gradient = attend_backward(
            grad[:, span].unsqueeze(0),
            query[:, span].unsqueeze(0),
            out,
            logsumexp,
            blocks,
            cache.prefix_gradients(span.start, span.stop - span.start),
        )
        assert_close(query_gradient, gradients_expected[0][:, :, span])
        sums = cache.own_sums(span.start, blocks)
        assert_close(sums[0].unsqueeze(0), gradients_expected[1][:, :, span])
        assert_close(sums[1].unsqueeze(0), gradients_expected[2][:, :, span])
