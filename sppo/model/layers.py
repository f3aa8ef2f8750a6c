"""The differentiable parts of a block. Weight gradients go straight into preallocated buffers.

A subsequence pipeline runs every layer N times a step; letting autograd make N weight gradients
and add them up would cost a temporary of the weight's size each time. So weights are no part of
the graph: a backward adds to `Weight.gradient` itself (Megatron's gradient accumulation fusion).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppo.comm.collectives import Team
from sppo.model.weights import Weight

TagStatistic = Callable[[Tensor], None]
Tag = Callable[[str, Tensor], None]
"""Names a tensor that autograd is about to save, as `plan/blocks/` names saved tensors."""


def add_product(gradient: Tensor, left: Tensor, right: Tensor) -> None:
    """gradient += left @ right, in the gradient's dtype."""
    if gradient.dtype == left.dtype:
        gradient.addmm_(left, right)
    else:
        gradient.add_(left @ right)


def linear(x: Tensor, weight: Weight, bias: Weight | None) -> Tensor:
    """x [l, in] @ weight.T + bias."""
    return F.linear(x, weight.value, None if bias is None else bias.value)


def row_linear(x: Tensor, team: Team, weight: Weight, bias: Weight | None) -> Tensor:
    """The forward of `RowLinear`."""
    if team.size == 1:
        return linear(x, weight, bias)
    out = team.reduce_scatter(x @ weight.value.t()).wait()
    return out if bias is None else out.add_(bias.value)


class StageInput(torch.autograd.Function):
    """Lets a received tensor [l / SP, h] into the graph without a reference from the graph.

    The AccumulateGrad node of a leaf would keep the leaf alive, and so a block input that is
    offloaded already. The gradient is appended to `sink`.
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


class ColumnLinear(torch.autograd.Function):
    """x @ weight.T + bias for one weight or several, of whose outputs every rank has its columns.

    x [l / size, in] of this rank's tokens; outputs [l, out / size] of all tokens, as gathered. Only
    x is saved. The backward gathers x while it computes the gradient of the inputs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, team: Team, weights: tuple[tuple[Weight, Weight | None], ...]
    ) -> Tensor | tuple[Tensor, ...]:
        ctx.save_for_backward(x)
        ctx.team = team
        ctx.weights = weights
        gathered = team.all_gather(x).wait()
        outputs = tuple(linear(gathered, weight, bias) for weight, bias in weights)
        return outputs if len(outputs) > 1 else outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        gathering = ctx.team.all_gather(x)
        x_gradient = grads[0] @ ctx.weights[0][0].value
        for grad, (weight, _) in zip(grads[1:], ctx.weights[1:], strict=True):
            x_gradient.addmm_(grad, weight.value)
        gathered = gathering.wait()
        scattering = ctx.team.reduce_scatter(x_gradient)
        for grad, (weight, bias) in zip(grads, ctx.weights, strict=True):
            add_product(weight.gradient, grad.t(), gathered)
            if bias is not None:
                bias.gradient.add_(grad.sum(0, dtype=bias.gradient.dtype))
        return scattering.wait(), None, None


class RowLinear(torch.autograd.Function):
    """x @ weight.T + bias, where every rank has some columns of x.

    x [l, in / size] of all tokens, as gathered; the output [l / size, out] of this rank's tokens.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Team, weight: Weight, bias: Weight | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.team = team
        ctx.weight = weight
        ctx.bias = bias
        return row_linear(x, team, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        gathering = ctx.team.all_gather(grad)
        if ctx.bias is not None:
            ctx.bias.gradient.add_(grad.sum(0, dtype=ctx.bias.gradient.dtype))
        gathered = gathering.wait()
        add_product(ctx.weight.gradient, gathered.t(), x)
        return gathered @ ctx.weight.value, None, None, None


class LayerNorm(torch.autograd.Function):
    """Layer norm over the last axis of x [l, h]; saves x and two statistics per token."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Weight, bias: Weight, epsilon: float, tag: TagStatistic
    ) -> Tensor:
        width = [x.shape[-1]]
        out, mean, rstd = torch.native_layer_norm(x, width, weight.value, bias.value, epsilon)
        tag(mean)
        tag(rstd)
        ctx.save_for_backward(x, mean, rstd)
        ctx.weight = weight
        ctx.bias = bias
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd = ctx.saved_tensors
        weight, bias, width = ctx.weight.value, ctx.bias.value, [x.shape[-1]]
        x_gradient, weight_gradient, bias_gradient = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), x, width, mean, rstd, weight, bias, [True, True, True]
        )
        ctx.weight.gradient.add_(weight_gradient)
        ctx.bias.gradient.add_(bias_gradient)
        return x_gradient, None, None, None, None


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight over the last axis of x [l, h]; saves x and 1 / rms [l, 1].

    The statistic is float32 or wider.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Weight, bias: None, epsilon: float, tag: TagStatistic
    ) -> Tensor:
        precise = x if x.dtype == torch.float64 else x.float()
        rstd = precise.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        out: Tensor = (precise * rstd).to(x.dtype) * weight.value
        tag(rstd)
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
        return x_gradient.to(x.dtype), None, None, None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up, both [l, ffn / SP]; saves only these two inputs."""

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
