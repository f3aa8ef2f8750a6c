"""PyTorch native set up on one rank: sharded decoder, process groups, optimizer step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from baselines.native.model import Groups, joined
from baselines.native.place import Place, group_ranks, misfit_of_tokens
from baselines.native.settings import NativeSettings
from baselines.native.sharding import sharded_decoder
from baselines.protocol import Context, Kind, StepResult, System, Weights, state_tensors
from baselines.reference import adamw
from sppo.config.workload import Workload


class NativeSystem(System):
    """One rank of an FSDP2 training."""

    def __init__(
        self, workload: Workload, settings: NativeSettings, weights: Weights, context: Context
    ) -> None:
        self.workload = workload
        self.settings = settings
        self.context = context
        self.replicas = context.ranks // settings.ranks_of_a_sequence
        self.place = Place(settings=settings, rank=context.rank)
        self.groups = self._groups()
        self.decoder = sharded_decoder(workload, settings, weights, context, self.groups)
        self.optimizer = adamw(self.decoder, workload.optimizer, fused=True)

    def _groups(self) -> Groups:
        """Not the group of FSDP2: with CUDA its gathers overlap the messages of these.

        Without TP FSDP2 shards over all ranks, whose group exists.
        """
        ranks = group_ranks(self.settings, self.context.ranks)
        shards = self._new_group(ranks.shards) if self.settings.tensor_parallel > 1 else None
        return Groups(
            tensor=self._group(ranks.tensor),
            ulysses=self._group(ranks.ulysses),
            ring=self._group(ranks.ring),
            shards=shards,
        )

    def _group(self, ranks_by_group: list[list[int]]) -> dist.ProcessGroup | None:
        """This rank's group; None where groups have one rank."""
        return None if len(ranks_by_group[0]) == 1 else self._new_group(ranks_by_group)

    def _new_group(self, ranks_by_group: list[list[int]]) -> dist.ProcessGroup:
        timeout = self.context.message_timeout
        group, _ = dist.new_subgroups_by_enumeration(ranks_by_group, timeout=timeout)
        assert isinstance(group, dist.ProcessGroup), "every rank is in a group"
        return group

    def step(self, tokens: Tensor) -> StepResult:
        """Train on this rank's tokens of this replica's sequences."""
        total_tokens = tokens.shape[1] - 1
        obstacle = misfit_of_tokens(total_tokens, self.settings)
        if obstacle is not None:
            raise ValueError(obstacle)
        positions = self.place.positions(total_tokens)
        if not (self.settings.compile and is_in_torch_dispatch_mode()):
            return self._step(tokens, positions)
        # Every operator must be seen, as in the accounted step.
        with torch.compiler.set_stance("force_eager"):
            return self._step(tokens, positions)

    def _step(self, tokens: Tensor, positions: Sequence[range]) -> StepResult:
        sequences = tokens.chunk(self.replicas)[self.place.replica].to(self.context.device)
        precise = torch.float64 if self.context.dtype == torch.float64 else torch.float32
        loss = torch.zeros((), device=self.context.device, dtype=precise)
        tensor_parallel = self.settings.tensor_parallel
        with loss_parallel() if tensor_parallel > 1 else nullcontext():
            for sequence in sequences.unsqueeze(1):
                inputs = joined([sequence[:, p.start : p.stop] for p in positions], 1)
                targets = joined([sequence[:, p.start + 1 : p.stop + 1] for p in positions], 1)
                share = self.decoder(inputs, targets, positions) / tokens[:, 1:].numel()
                share.backward()
                loss += share.detach()
        if tensor_parallel > 1:
            loss /= tensor_parallel  # every rank of a TP group has the loss of all its tokens
        dist.all_reduce(loss)
        grad_norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepResult(loss=loss.item(), grad_norm=grad_norm.item())

    def _clip(self) -> Tensor:
        """Clip by the norm over all ranks; returns the norm before.

        One all-reduce for all shards, as torch's `clip_grad_norm_` of DTensors sends.
        """
        parameters = [p for p in self.decoder.parameters() if p.grad is not None]
        square = self._own_square(parameters)
        dist.all_reduce(square)
        norm = square.sqrt()
        clip_grads_with_norm_(parameters, self.workload.optimizer.clip_norm, norm)
        return norm

    def _own_square(self, parameters: Sequence[Tensor]) -> Tensor:
        """This rank's share of the squared norm.

        Norms, and biases behind a row-wise product, are the same on every rank of a TP group.
        """
        split: list[Tensor] = []
        repeated: list[Tensor] = []
        for parameter in parameters:
            assert parameter.grad is not None, "parameters with a gradient"
            same = isinstance(parameter, DTensor) and parameter.placements[-1].is_replicate()
            (repeated if same else split).append(local(parameter.grad))
        square = get_total_norm(split).square()
        if repeated:
            square = square + get_total_norm(repeated).square() / self.settings.tensor_parallel
        return square

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
        """End the groups of this system; compiled blocks know them."""
        if self.settings.compile:
            torch.compiler.reset()
        for group in self.groups.present:
            dist.destroy_process_group(group)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
