"""The differentiable parts of a block. Weight gradients go straight into preallocated buffers.

A subsequence pipeline runs every layer N times a step; letting autograd make N weight gradients
and add them up would cost a temporary of the weight's size each time. So weights are no part of
the graph: a backward adds to `Weight.gradient` itself (Megatron's gradient accumulation fusion).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppo.attention import attend, attend_backward
from sppo.kvcache import LayerCache

Tag = Callable[[str, Tensor], None]
"""Names a tensor about to be saved with its unit of `units.py`."""


@dataclass(frozen=True)
class Weight:
    """A parameter and its gradient: float32, or float64 where the parameter is."""

    value: Tensor
    gradient: Tensor


def add_product(gradient: Tensor, left: Tensor, right: Tensor) -> None:
    """gradient += left @ right, in the gradient's dtype."""
    if gradient.dtype == left.dtype:
        gradient.addmm_(left, right)
    else:
        gradient.add_(left @ right)


class StageInput(torch.autograd.Function):
    """Lets a received tensor into the graph without the graph holding on to it.

    A leaf would be kept alive by its AccumulateGrad node, and with it a block input that has
    already travelled to the host. The gradient arrives in `sink`.
    """

    @staticmethod
    def forward(ctx: Any, entry: Tensor, x: Tensor, sink: list[Tensor]) -> Tensor:
        ctx.sink = sink
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        ctx.sink.append(grad)
        return None, None, None


class Linear(torch.autograd.Function):
    """x [l, in] @ weight.T + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight, bias: Weight | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight = weight
        ctx.bias = bias
        return F.linear(x, weight.value, None if bias is None else bias.value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        add_product(ctx.weight.gradient, grad.t(), x)
        if ctx.bias is not None:
            ctx.bias.gradient.add_(grad.sum(0))
        return grad @ ctx.weight.value, None, None


class LayerNorm(torch.autograd.Function):
    """Layer norm over the last axis of x [l, h]; keeps x and two statistics per token."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Weight, bias: Weight, epsilon: float, tag: Tag
    ) -> Tensor:
        width = [x.shape[-1]]
        out, mean, rstd = torch.native_layer_norm(x, width, weight.value, bias.value, epsilon)
        tag("mean", mean)
        tag("rstd", rstd)
        ctx.save_for_backward(x, mean, rstd)
        ctx.weight = weight
        ctx.bias = bias
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd = ctx.saved_tensors
        x_gradient, weight_gradient, bias_gradient = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(),
            x,
            [x.shape[-1]],
            mean,
            rstd,
            ctx.weight.value,
            ctx.bias.value,
            [True, True, True],
        )
        ctx.weight.gradient.add_(weight_gradient)
        ctx.bias.gradient.add_(bias_gradient)
        return x_gradient, None, None, None, None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) * weight over the last axis, and 1 / rms [l, 1] in float32 or wider."""
    precise = x if x.dtype == torch.float64 else x.float()
    rstd = precise.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    return (precise * rstd).to(x.dtype) * weight, rstd


class RmsNorm(torch.autograd.Function):
    """`rms_norm`; keeps x and one statistic per token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight, epsilon: float, tag: Tag) -> Tensor:
        out, rstd = rms_norm(x, weight.value, epsilon)
        tag("rstd", rstd)
        ctx.save_for_backward(x, rstd)
        ctx.weight = weight
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, rstd = ctx.saved_tensors
        normed = x.to(rstd.dtype) * rstd
        ctx.weight.gradient.add_((grad * normed).sum(0))
        scaled = grad.to(rstd.dtype) * ctx.weight.value
        projection = (scaled * normed).mean(-1, keepdim=True)
        x_gradient = scaled.addcmul_(normed, projection, value=-1).mul_(rstd)
        return x_gradient.to(x.dtype), None, None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up, keeping only its two inputs."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        gate_gradient = torch.ops.aten.silu_backward(grad * up, gate)
        return gate_gradient, F.silu(gate).mul_(grad)


def _pairs(x: Tensor) -> Tensor:
    """[..., D] as complex [..., D / 2]: neighbouring columns turn together (see `RotaryTable`)."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def rotate_into(x: Tensor, turns: Tensor, out: Tensor) -> Tensor:
    """RoPE in one complex product: x, out [heads, l, D]; turns complex [l, D / 2]."""
    if x.dtype in (torch.float32, torch.float64):
        torch.mul(_pairs(x), turns, out=_pairs(out))
    else:
        out.copy_(torch.view_as_real(_pairs(x.float()) * turns).flatten(-2))
    return out


def split_heads(qkv: Tensor, width: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views [heads, l, D], [kv_heads, l, D] twice, of qkv [l, (heads + 2 kv_heads) D]."""
    by_head = qkv.view(qkv.shape[0], -1, width).transpose(0, 1)
    heads = by_head.shape[0] - 2 * kv_heads
    query, key, value = torch.split(by_head, [heads, kv_heads, kv_heads])
    return query, key, value


def attend_cache(query: Tensor, cache: LayerCache, start: int) -> tuple[Tensor, Tensor]:
    """`attend_prefix` once more, when this subsequence's K and V are in the buffers."""
    return attend_prefix(query, cache.own(start, query.shape[1]), cache, start)


def attend_prefix(
    query: Tensor, own: tuple[Tensor, Tensor], cache: LayerCache, start: int
) -> tuple[Tensor, Tensor]:
    """Rotated queries [heads, l, D] of positions start..start+l against `own` and all before.

    Returns the output [l, heads D] and its log-sum-exp [1, heads, l].
    """
    tokens = query.shape[1]
    out, logsumexp = attend(query, own, cache.prefix(start))
    return out.squeeze(0).transpose(0, 1).reshape(tokens, -1), logsumexp


class PrefixAttention(torch.autograd.Function):
    """RoPE, the KV buffers and causal attention of one subsequence: qkv [l, h + 2 kv] -> [l, h].

    `cache` is the layer's view of the KV buffers; K and V of this subsequence are written into it,
    and in the backward their gradients are read out of it: by then every later subsequence has
    added its share.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        turns: Tensor,
        cache: LayerCache,
        start: int,
        tag: Tag,
    ) -> Tensor:
        width = 2 * turns.shape[-1]
        query, key, value = split_heads(qkv, width, cache.kv_heads)
        rotated = rotate_into(query, turns, query.new_empty(query.shape))
        own_key, own_value = cache.place(key, start)
        rotate_into(key, turns, own_key)
        own_value.copy_(value)
        cache.keep(start, own_key, own_value)
        result, logsumexp = attend_prefix(rotated, (own_key, own_value), cache, start)
        tag("attention.query", rotated)
        tag("attention.output", result)
        tag("attention.logsumexp", logsumexp)
        ctx.save_for_backward(rotated, result, logsumexp)
        ctx.turns = turns
        ctx.cache = cache
        ctx.start = start
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rotated, result, logsumexp = ctx.saved_tensors
        cache, start = ctx.cache, ctx.start
        tokens, width = result.shape[0], rotated.shape[-1]

        def by_head(x: Tensor) -> Tensor:
            return x.view(tokens, -1, width).transpose(0, 1).unsqueeze(0)

        own = cache.own_gradients(start, tokens)
        query_gradient = attend_backward(
            by_head(grad.contiguous()),
            rotated.unsqueeze(0),
            by_head(result),
            logsumexp,
            own,
            cache.prefix_gradients(start),
        ).squeeze(0)
        heads = rotated.shape[0] + 2 * cache.kv_heads
        qkv_gradient = result.new_empty(tokens, heads * width)
        query, key, value = split_heads(qkv_gradient, width, cache.kv_heads)
        turns_back = ctx.turns.conj_physical()
        rotate_into(query_gradient.to(result.dtype), turns_back, query)
        rotate_into(own.key_gradients.to(result.dtype), turns_back, key)
        value.copy_(own.value_gradients)
        return qkv_gradient, None, None, None, None


class TiledLoss(torch.autograd.Function):
    """Cross entropy of a subsequence, `tile` tokens of logits at a time; they never all exist.

    x [l, h], head weight [V, h], targets int64 [l]. Returns sum(losses) * scale.
    The backward of a tile runs at once, while its logits are there; only dx [l, h] is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Weight, targets: Tensor, scale: float, tile: int, tag: Tag
    ) -> Tensor:
        gradient = torch.empty_like(x)
        precision = torch.float64 if x.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=precision, device=x.device)
        for start in range(0, x.shape[0], tile):
            rows = slice(start, min(start + tile, x.shape[0]))
            logits = F.linear(x[rows], weight.value).to(precision)
            logsumexp = logits.logsumexp(-1, keepdim=True)
            wanted = targets[rows].unsqueeze(-1)
            total += (logsumexp - logits.gather(-1, wanted)).sum()
            probabilities = logits.sub_(logsumexp).exp_()
            probabilities.scatter_add_(-1, wanted, -torch.ones_like(logsumexp))
            scaled = probabilities.mul_(scale).to(x.dtype)
            torch.mm(scaled, weight.value, out=gradient[rows])
            add_product(weight.gradient, scaled.t(), x[rows])
        tag("head.gradient", gradient)
        ctx.save_for_backward(gradient)
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None, None, None
