"""Attention by plain matrix products: it checks all other kernels, and computes float32 on CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sppo.kernels.attention import AttentionKernel, Block, Gradients


class Math(AttentionKernel):
    """Plain products in float32 or wider, in tiles of queries: for any device and dtype, slow."""

    tile_scores = 2**24
    """Scores of all heads that exist at a time."""

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Block:
        wide_values = _wide(values).unsqueeze(2)
        outputs, sums = [], []
        for rows in self._tiles(query, keys):
            scores = _scores(query, keys, rows, causal)
            logsumexp = scores.logsumexp(-1, keepdim=True)
            outputs.append((scores.sub_(logsumexp).exp_() @ wide_values).flatten(1, 2))
            sums.append(logsumexp.squeeze(-1).flatten(1, 2))
        return torch.cat(outputs, 2).to(query.dtype), torch.cat(sums, 2)

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        causal: bool,
    ) -> Gradients:
        scale = query.shape[-1] ** -0.5
        wide_keys, wide_values = _wide(keys).unsqueeze(2), _wide(values).unsqueeze(2)
        query_gradients = []
        key_gradient, value_gradient = (
            torch.zeros_like(wide.squeeze(2)) for wide in (wide_keys, wide_values)
        )
        for rows in self._tiles(query, keys):
            wide_query, wide_grad, wide_out = (
                _by_kv_head(_wide(x[:, :, rows]), keys) for x in (query, grad, out)
            )
            sums = _by_kv_head(_wide(logsumexp[:, :, rows]).unsqueeze(-1), keys)
            shares = _scores(query, keys, rows, causal).sub_(sums).exp_()
            value_gradient += (shares.transpose(-1, -2) @ wide_grad).sum(2)
            delta = (wide_grad * wide_out).sum(-1, keepdim=True)
            score_gradient = (wide_grad @ wide_values.transpose(-1, -2)).sub_(delta)
            score_gradient = score_gradient.mul_(shares).mul_(scale)
            key_gradient += (score_gradient.transpose(-1, -2) @ wide_query).sum(2)
            query_gradients.append((score_gradient @ wide_keys).flatten(1, 2))
        return (
            torch.cat(query_gradients, 2).to(query.dtype),
            key_gradient.to(keys.dtype),
            value_gradient.to(values.dtype),
        )

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out: Tensor = _CausalMath.apply(query, key, value, self)
        return out

    def obstacle(self, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
        return None

    def _tiles(self, query: Tensor, keys: Tensor) -> list[slice]:
        heads, tokens = query.shape[1:3]
        step = max(1, self.tile_scores // (heads * keys.shape[2]))
        return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]


class _CausalMath(torch.autograd.Function):
    """`Math.forward` and `Math.backward` of a causal square."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, kernel: Math) -> Tensor:
        out, logsumexp = kernel.forward(query, key, value, True)
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.kernel = kernel
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.kernel.backward(gradients[0], *ctx.saved_tensors, True), None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _by_kv_head(x: Tensor, keys: Tensor) -> Tensor:
    """[1, H, n, D] as [1, Hkv, H / Hkv, n, D]: the queries of one KV head side by side."""
    grouped: Tensor = x.unflatten(1, (keys.shape[1], -1))
    return grouped


def _scores(query: Tensor, keys: Tensor, rows: slice, causal: bool) -> Tensor:
    """Scaled scores [1, Hkv, H / Hkv, rows, m], float32 or wider; query i sees keys 0..i."""
    wide_query = _by_kv_head(_wide(query[:, :, rows]), keys) * query.shape[-1] ** -0.5
    scores: Tensor = wide_query @ _wide(keys).unsqueeze(2).transpose(-1, -2)
    if causal:
        positions = torch.arange(rows.start, rows.stop, device=query.device).unsqueeze(-1)
        later = torch.arange(keys.shape[2], device=query.device) > positions
        scores.masked_fill_(later, float("-inf"))
    return scores
