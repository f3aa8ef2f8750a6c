"""The loss of a subsequence, over a vocabulary that a stage's ranks may share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppo.comm.collectives import Team, as_gathered
from sppo.model.layers import Tag, add_product
from sppo.model.weights import Weight


class TiledLoss(torch.autograd.Function):
    """Cross entropy of a subsequence, `tile` tokens of logits at a time; they never all exist.

    x [l / size, h] of this rank's tokens, head weight [V / size, h], targets int64 [l] by position.
    Returns this rank's part of sum(losses) * scale: its own vocabulary's logits, and the
    log-sum-exps of its own tokens. The backward of a tile runs at once, while its logits are there;
    only dx [l / size, h] is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Weight,
        targets: Tensor,
        scale: float,
        tile: int,
        team: Team,
        tag: Tag,
    ) -> Tensor:
        gradient = torch.empty_like(x)
        precision = torch.float64 if x.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=precision, device=x.device)
        by_rank = as_gathered(targets, team.size).view(team.size, -1)
        step = max(1, tile // team.size)
        for start in range(0, x.shape[0], step):
            rows = slice(start, min(start + step, x.shape[0]))
            gathered = team.all_gather(x[rows]).wait()
            logits = F.linear(gathered, weight.value).to(precision)
            wanted, mine = own_rows(by_rank[:, rows].flatten(), weight.value.shape[0], team)
            wanted, mine = wanted.unsqueeze(-1), mine.unsqueeze(-1).to(precision)
            total -= (logits.gather(-1, wanted) * mine).sum()
            logsumexp, probabilities = _softmax_(logits, team)
            total += logsumexp.chunk(team.size)[team.index].sum()
            probabilities.scatter_add_(-1, wanted, -mine)
            scaled = probabilities.mul_(scale).to(x.dtype)
            if team.size == 1:
                torch.mm(scaled, weight.value, out=gradient[rows])
            else:
                gradient[rows] = team.reduce_scatter(scaled @ weight.value).wait()
            add_product(weight.gradient, scaled.t(), gathered)
            del gathered, logits, probabilities, scaled  # before the next tile's are made
        tag("head.gradient", gradient)
        ctx.save_for_backward(gradient)
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None, None, None, None


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
    """Which of these rows of a divided table lie in this rank's `count` rows, and where there.

    The others are given its first row.
    """
    local = rows - team.index * count
    mine = (local >= 0) & (local < count)
    return local * mine, mine
