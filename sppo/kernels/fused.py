"""Element-wise pieces of a block as compiled kernels on CUDA: one switch for every system.

Off, and on a CPU, every system runs its own operators. Each piece has the arguments and the result
of the operators in whose place it stands. torch compiles a piece at its first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from sppo.config.errors import NotSupported

Piece = TypeVar("Piece", bound=Callable[..., Any])


class Switch:
    """Whether pieces are fused in this process, and by which backend of torch.compile."""

    on = False
    backend = "inductor"


switch = Switch()


def fuse(device: torch.device, *, backend: str = "inductor") -> None:
    """Fuse all pieces in this process, from now on. Raises NotSupported where there is no CUDA."""
    if device.type != "cuda" and backend == "inductor":
        raise NotSupported(f"--fuse needs CUDA, not {device.type}: leave it out")
    switch.on, switch.backend = True, backend


@contextmanager
def unfused() -> Iterator[None]:
    """Run a step with every system's own operators, as a step under a dispatch mode needs."""
    before, switch.on = switch.on, False
    try:
        yield
    finally:
        switch.on = before


def piece(function: Piece) -> Piece:
    """The function, compiled while the switch is on."""
    return _compiled(function, switch.backend) if switch.on else function


@cache
def _compiled(function: Any, backend: str) -> Any:
    return torch.compile(function, backend=backend, dynamic=True)


def rotate_pairs(x: Tensor, turns: Tensor, out: Tensor) -> Tensor:
    """RoPE of neighbouring columns: x, out [heads, l, D]; turns real [l, D / 2, 2] (cos, sin)."""
    return piece(_rotate_pairs)(x, turns, out)


def _rotate_pairs(x: Tensor, turns: Tensor, out: Tensor) -> Tensor:
    even, odd = x.to(turns.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turns.unbind(-1)
    rotated = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1)
    return out.copy_(rotated.flatten(-2))


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) * weight of x [l, h], and 1 / rms [l, 1] in float32 or wider."""
    return piece(_rms_norm)(x, weight, epsilon)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    precise = x if x.dtype == torch.float64 else x.float()
    rstd = (precise.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (precise * rstd).to(x.dtype) * weight, rstd


def rms_norm_backward(
    grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x [l, h] and of the weight [h], the latter in the statistic's dtype."""
    return piece(_rms_norm_backward)(grad, x, rstd, weight)


def _rms_norm_backward(
    grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    normed = x.to(rstd.dtype) * rstd
    scaled = grad.to(rstd.dtype) * weight
    projection = (scaled * normed).mean(-1, keepdim=True)
    x_gradient = ((scaled - normed * projection) * rstd).to(x.dtype)
    return x_gradient, (grad * normed).sum(0)


def add_bias_residual(out: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """out + bias + residual of out, residual [l, h] and bias [h], rounded once."""
    return piece(_add_bias_residual)(out, bias, residual)


def _add_bias_residual(out: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    wide = out if out.dtype == torch.float64 else out.float()
    return (wide + bias + residual).to(out.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both [..., ffn]."""
    return piece(_swiglu)(gate, up)


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def loss_sums(logits: Tensor, columns: Tensor, is_own: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp [n, 1] of logits [n, V], and the sum of the targets' own logits, in float32.

    columns: int64 [n, 1], the target's index; is_own [n, 1]: 1 where the target is in these logits.
    """
    return piece(_loss_sums)(logits, columns, is_own)


def _loss_sums(logits: Tensor, columns: Tensor, is_own: Tensor) -> tuple[Tensor, Tensor]:
    precise = logits.to(is_own.dtype)
    return precise.logsumexp(-1, keepdim=True), (precise.gather(-1, columns) * is_own).sum()


def loss_gradient(
    logits: Tensor, logsumexp: Tensor, columns: Tensor, is_own: Tensor, scale: float
) -> Tensor:
    """scale * (softmax - one-hot) of logits [n, V], in their dtype; logsumexp is of all ranks."""
    return piece(_loss_gradient)(logits, logsumexp, columns, is_own, scale)


def _loss_gradient(
    logits: Tensor, logsumexp: Tensor, columns: Tensor, is_own: Tensor, scale: float
) -> Tensor:
    probabilities = (logits.to(is_own.dtype) - logsumexp).exp()
    is_target = torch.arange(logits.shape[-1], device=logits.device) == columns
    return ((probabilities - is_target * is_own) * scale).to(logits.dtype)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropies of logits [n, V], in float32 or wider, under autograd."""
    return piece(_cross_entropy)(logits, targets)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(precise, targets, reduction="sum")
