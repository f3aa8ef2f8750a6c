"""The loss of a subsequence, over a vocabulary that a stage's ranks may share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppo.comm.collectives import Team
from sppo.comm.stage_ranks import StageRanks
from sppo.kernels import fused
from sppo.model.layers import Tag, add_product
from sppo.model.weights import Weight, accumulation_dtype
from sppo.plan.saved_tensors import LOSS_TILE_TOKENS


class TiledLoss(torch.autograd.Function):
    """Cross entropy of a subsequence, in tiles: never all logits exist.

    x [l / SP, h] of this rank's tokens, head weight [V / TP, h], targets int64 [l] by position.
    Returns this rank's part of sum(losses) * scale: its own vocabulary's logits, and the
    log-sum-exps of its own tokens. The backward of a tile runs at once, while its logits exist.
    Only dx [l / SP, h] is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Weight,
        targets: Tensor,
        scale: float,
        ranks: StageRanks,
        tag: Tag,
    ) -> Tensor:
        team = ranks.shards
        gradient = torch.empty_like(x)
        precision = accumulation_dtype(x.dtype)
        total = torch.zeros((), dtype=precision, device=x.device)
        by_rank = ranks.own_part(targets).view(team.size, -1)
        step = max(1, LOSS_TILE_TOKENS // ranks.size)
        for start in range(0, x.shape[0], step):
            rows = slice(start, min(start + step, x.shape[0]))
            gathered = team.all_gather(x[rows]).wait()
            logits = F.linear(gathered, weight.value)
            columns, is_own = own_rows(by_rank[:, rows].flatten(), weight.value.shape[0], team)
            columns, is_own = columns.unsqueeze(-1), is_own.unsqueeze(-1).to(precision)
            if fused.switch.on:
                tile_loss, scaled = _fused_tile(logits, columns, is_own, scale, team)
                total += tile_loss
            else:
                logits = logits.to(precision)
                total -= (logits.gather(-1, columns) * is_own).sum()
                logsumexp, probabilities = _softmax_(logits, team)
                total += logsumexp.chunk(team.size)[team.index].sum()
                probabilities.scatter_add_(-1, columns, -is_own)
                scaled = probabilities.mul_(scale).to(x.dtype)
                del probabilities
            if team.size == 1:
                torch.mm(scaled, weight.value, out=gradient[rows])
            else:
                gradient[rows] = team.reduce_scatter(scaled @ weight.value).wait()
            add_product(weight.gradient, scaled.t(), gathered)
            del gathered, logits, scaled  # before the next tile's are made
        tag("head.gradient", gradient)
        ctx.save_for_backward(gradient)
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None, None, None


def _fused_tile(
    logits: Tensor, columns: Tensor, is_own: Tensor, scale: float, team: Team
) -> tuple[Tensor, Tensor]:
    """This rank's part of the losses of logits [n, V / size], and their scaled gradient."""
    own, picked = fused.loss_sums(logits, columns, is_own)
    whole = own
    if team.size > 1:
        whole = team.all_gather(own).wait().view(team.size, -1, 1).logsumexp(0)
    tile_loss = whole.chunk(team.size)[team.index].sum() - picked
    return tile_loss, fused.loss_gradient(logits, whole, columns, is_own, scale)


def _softmax_(logits: Tensor, team: Team) -> tuple[Tensor, Tensor]:
    """Log-sum-exps [n, 1] and softmax over the columns of all ranks, of logits [n, V / size].

    The softmax takes the place of the logits: no second tile of them ever exists.
    """
    highest = logits.amax(-1, keepdim=True)
    powers = logits.sub_(highest).exp_()
    own = powers.sum(-1, keepdim=True).log_().add_(highest)
    whole = own
    if team.size > 1:
        whole = team.all_gather(own).wait().view(team.size, -1, 1).logsumexp(0)
    return whole, powers.mul_((highest - whole).exp_())


def own_rows(rows: Tensor, count: int, team: Team) -> tuple[Tensor, Tensor]:
    """Rows of a sharded table -> their index in this rank's `count` rows, and whether they are own.

    Rows of other ranks get the index 0.
    """
    local = rows - team.index * count
    is_own = (local >= 0) & (local < count)
    return local * is_own, is_own
