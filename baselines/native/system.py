"""PyTorch native set up on one rank: sharded decoder, Ulysses group, optimizer step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from baselines.native.settings import NativeSettings
from baselines.native.sharding import sharded_decoder
from baselines.protocol import Context, Kind, StepResult, System, Weights, state_tensors
from baselines.reference import adamw
from sppo.config.workload import Workload


class NativeSystem(System):
    """One rank of an FSDP2 training. Ranks of a Ulysses group are neighbours."""

    def __init__(
        self, workload: Workload, settings: NativeSettings, weights: Weights, context: Context
    ) -> None:
        self.workload = workload
        self.settings = settings
        self.context = context
        degree = settings.sequence_parallel
        self.replicas = context.ranks // degree
        self.data_rank, self.sequence_rank = divmod(context.rank, degree)
        self.group = self._sequence_group() if degree > 1 else None
        self.decoder = sharded_decoder(workload, settings, weights, context, self.group)
        self.optimizer = adamw(self.decoder, workload.optimizer, fused=True)

    def _sequence_group(self) -> dist.ProcessGroup:
        """Not the group of FSDP2: with CUDA its gathers overlap the all-to-alls."""
        degree = self.settings.sequence_parallel
        ranks = range(self.context.ranks)
        groups = [list(ranks[start : start + degree]) for start in ranks[::degree]]
        group, _ = dist.new_subgroups_by_enumeration(groups, timeout=self.context.message_timeout)
        assert isinstance(group, dist.ProcessGroup), "every rank is in a group"
        return group

    def step(self, tokens: Tensor) -> StepResult:
        """Train on this rank's slice of this replica's sequences."""
        total_tokens = tokens.shape[1] - 1
        if total_tokens % self.settings.sequence_parallel:
            raise ValueError(
                f"{total_tokens} tokens do not split over Ulysses {self.settings.sequence_parallel}"
            )
        length = total_tokens // self.settings.sequence_parallel
        start = self.sequence_rank * length
        own = tokens.chunk(self.replicas)[self.data_rank][:, start : start + length + 1]
        own = own.to(self.context.device)
        loss = torch.zeros((), device=self.context.device)
        for sequence in own.unsqueeze(1):
            total = self.decoder(sequence[:, :-1].contiguous(), sequence[:, 1:].contiguous())
            share = total / tokens[:, 1:].numel()
            share.backward()
            loss += share.detach()
        dist.all_reduce(loss)
        grad_norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepResult(loss=loss.item(), grad_norm=grad_norm.item())

    def _clip(self) -> Tensor:
        """Clip by the norm over all ranks; returns the norm before.

        One all-reduce for all shards: torch's own norm of DTensors sends one for each parameter.
        """
        parameters = [p for p in self.decoder.parameters() if p.grad is not None]
        norm = get_total_norm([local(p.grad) for p in parameters if p.grad is not None])
        square = norm.square()
        dist.all_reduce(square)
        norm = square.sqrt()
        clip_grads_with_norm_(parameters, self.workload.optimizer.clip_norm, norm)
        return norm

    def least_sequences(self) -> int:
        """One of each replica."""
        return self.replicas

    def tensors(self) -> Mapping[Kind, Iterable[Tensor]]:
        """This rank's shards; a gradient is labelled when FSDP2 has reduced it."""
        return {
            "weights": list(self.decoder.parameters()),
            "gradients": [p.grad for p in self.decoder.parameters() if p.grad is not None],
            "optimizer": state_tensors(self.optimizer),
        }

    def close(self) -> None:
        """End the Ulysses group."""
        if self.group is not None:
            dist.destroy_process_group(self.group)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
