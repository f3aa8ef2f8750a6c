"""One rank of one Megatron layout, from its model to its optimizer step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from torch import Tensor

from baselines.megatron.model import build_model, build_optimizer
from baselines.megatron.patches import apply_patches, cuda_type_names
from baselines.megatron.settings import MegatronSettings
from baselines.megatron.te_layers import group_options
from baselines.protocol import Context, Kind, StepResult, System, Weights, state_tensors
from sppo.config.workload import Workload


class MegatronSystem(System):
    """One rank of one layout."""

    def __init__(
        self, workload: Workload, settings: MegatronSettings, weights: Weights, context: Context
    ) -> None:
        apply_patches(context.device, torch.distributed.get_backend(), settings)
        self.context = context
        self.settings = settings
        self.sequences = workload.sequences_per_step
        parallel_state.initialize_model_parallel(
            settings.tensor_parallel,
            settings.pipeline_parallel,
            settings.virtual_pipeline,
            context_parallel_size=settings.context_parallel,
            create_gloo_process_groups=False,
            **group_options(workload, settings),
        )
        cuda = context.device.type == "cuda"
        model_parallel_cuda_manual_seed(workload.seed, inference_rng_tracker=not cuda)
        self.chunks = build_model(workload, settings, weights, context)
        self.optimizer = build_optimizer(workload, settings, self.chunks, context)
        self.forward_backward = get_forward_backward_func()

    def step(self, tokens: Tensor) -> StepResult:
        replicas = parallel_state.get_data_parallel_world_size()
        replica = parallel_state.get_data_parallel_rank()
        sequences = tokens.to(self.context.device).chunk(replicas)[replica]
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()  # p.grad is still a view of the gradient buffer
        iterators = [self._microbatches(sequences) for _ in self.chunks]
        reports = self.forward_backward(
            forward_step_func=self._forward,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.chunks,
            num_microbatches=len(sequences),
            seq_length=tokens.shape[1] - 1,
            micro_batch_size=1,
            forward_only=False,
        )
        with cuda_type_names(self.context.device):
            _, grad_norm, _ = self.optimizer.step()
        return StepResult(loss=self._mean_loss(reports), grad_norm=float(grad_norm))

    def _microbatches(self, sequences: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of one sequence at a time, [1, tokens of this rank]."""
        for sequence in sequences.chunk(len(sequences)):
            inputs, targets = sequence[:, :-1], sequence[:, 1:]
            yield self._tokens_of_this_rank(inputs), self._tokens_of_this_rank(targets)

    def _tokens_of_this_rank(self, tokens: Tensor) -> Tensor:
        """Chunks r and 2n-1-r of 2n: context parallelism with equal causal work."""
        ranks = self.settings.context_parallel
        if ranks == 1:
            return tokens.contiguous()
        rank = parallel_state.get_context_parallel_rank()
        chunks = tokens.chunk(2 * ranks, dim=1)
        return torch.cat((chunks[rank], chunks[-1 - rank]), dim=1)

    def _forward(self, batches: Iterator[tuple[Tensor, Tensor]], model: Any) -> tuple[Any, Any]:
        inputs, targets = next(batches)
        # RoPE needs no position ids, and our core attention no mask.
        return model(inputs, None, None, labels=targets), self._loss

    def _loss(self, losses: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's share of the sequence's mean loss; Megatron multiplies by CP later.

        Megatron also divides in place by the number of micro-batches, so the report is a copy.
        """
        mean = losses.sum() / (losses.numel() * self.settings.context_parallel)
        return mean, {"loss": mean.detach().clone()}

    def _mean_loss(self, reports: list[dict[str, Tensor]]) -> float:
        """One all_reduce: the last stage's shares of all data- and context-parallel ranks."""
        total = torch.zeros((), device=self.context.device)
        if parallel_state.get_tensor_model_parallel_rank() == 0:
            for report in reports:
                total += report["loss"]
        torch.distributed.all_reduce(total)
        return total.item() / self.sequences

    def tensors(self) -> Mapping[Kind, Iterable[Tensor]]:
        weights = [weight for chunk in self.chunks for weight in chunk.parameters()]
        states = []
        for optimizer in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
            if self.context.dtype != torch.float32:
                states += optimizer.get_parameters()  # float32 copies of the weights
            states += state_tensors(optimizer.optimizer)
        gradients = [buffer.grad_data for chunk in self.chunks for buffer in chunk.buffers]
        gradients += [weight.grad for weight in weights if weight.grad is not None]
        return {"weights": weights, "gradients": gradients, "optimizer": states}

    def close(self) -> None:
        """End the groups too. Megatron only forgets them, and each keeps threads of gloo."""
        groups = getattr(parallel_state, "_global_process_group_list", None) or []
        parallel_state.destroy_model_parallel()
        for group in groups:
            if isinstance(group, torch.distributed.ProcessGroup):
                torch.distributed.destroy_process_group(group)
