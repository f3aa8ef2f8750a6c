"""DeepSpeed set up on one rank: its engine, its Ulysses groups, its optimizer step."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

from baselines.deepspeed.checkpointing import Region, contexts_of, hosted_by_deepspeed, region
from baselines.deepspeed.engine_config import engine_config
from baselines.deepspeed.hosted import HostTier, hosted_region
from baselines.deepspeed.model import (
    CoreAttention,
    Decoder,
    DecoderBlock,
    load_weights,
    local_attention,
)
from baselines.deepspeed.offloaded import config_for, cpu_optimizer
from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.protocol import Context, Kind, StepResult, System, Weights
from baselines.reference import adamw
from sppo.config.workload import Workload


def _quiet_deepspeed(context: Context) -> Any:
    """Import DeepSpeed without its log output and without a build of its C++ collective."""
    if context.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    index = context.device.index
    # The engine reads its device from here; launchers other than torchrun do not set it.
    os.environ.setdefault("LOCAL_RANK", str(context.rank if index is None else index))
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
        from deepspeed.utils import logger
    logger.setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that newer torch deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _skip_parameter_comparison() -> None:
    """ZeRO-3 compares its parameters with rank 0's, which is absent in an emulation."""
    from deepspeed.runtime.zero import partitioned_param_coordinator

    def broadcast_only(numbers: list[int]) -> None:
        for message in (len(numbers), numbers):
            dist.broadcast(torch.tensor(message), src=0)

    partitioned_param_coordinator.assert_ints_same_as_other_ranks = broadcast_only


_HELD_BY_OPTIMIZER: dict[Kind, tuple[str, ...]] = {
    "weights": ("bit16_groups_flat", "bf16_groups_flat"),
    "gradients": (
        "averaged_gradients",
        "all_grad_tensors",
        "grad_partitions_flat_buffer",
        "fp32_groups_gradients_flat",
    ),
    "optimizer": (
        "single_partition_of_fp32_groups",
        "fp32_partitioned_groups_flat",
        "fp32_groups_flat_partition",
    ),
}
"""Attributes of DeepSpeed's ZeRO and bf16 optimizers that hold their buffers."""


def engine_tensors(engine: Any) -> dict[Kind, Iterable[Tensor]]:
    """Weights, gradients and optimizer state that a DeepSpeed engine holds now."""
    held: dict[Kind, list[Any]] = {
        kind: [getattr(engine.optimizer, name, None) for name in names]
        for kind, names in _HELD_BY_OPTIMIZER.items()
    }
    for parameter in engine.module.parameters():
        held["weights"] += [parameter, getattr(parameter, "ds_tensor", None)]
        held["gradients"].append(parameter.grad)
    held["optimizer"].append(dict(engine.basic_optimizer.state))
    return {
        kind: [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.numel()]
        for kind, values in held.items()
    }


def partitions_first(settings: DeepSpeedSettings, device: torch.device) -> bool:
    """Whether weights are partitioned before they are on the device, one by one.

    So ZeRO-3 trains a model that no single GPU could hold.
    """
    return settings.zero_stage == 3 and device.type == "cuda"


class DeepSpeedSystem(System):
    """One rank of DeepSpeed: its engine, and its rank in the Ulysses group.

    hosted: what checkpoints keep lies in a host tier of ours.
    """

    def __init__(
        self,
        workload: Workload,
        settings: DeepSpeedSettings,
        weights: Weights,
        context: Context,
        *,
        hosted: bool = False,
    ) -> None:
        self.workload = workload
        self.settings = settings
        self.context = context
        self.sequence_rank = context.rank % settings.sequence_parallel
        self.data_rank = context.rank // settings.sequence_parallel
        self.replicas = context.ranks // settings.sequence_parallel
        self.sequences = workload.sequences_per_step // self.replicas
        # DeepSpeed averages gradients over replicas and sums them over a Ulysses group (its issue
        # 5248), except in ZeRO-3, whose reduce-scatter averages over all ranks.
        summed = 1 if settings.zero_stage == 3 else settings.sequence_parallel
        self.loss_divisor = self.sequences * summed
        self.deepspeed = _quiet_deepspeed(context)
        self.deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False)
        if dist.get_backend() == "fake":
            _skip_parameter_comparison()
        self.mpu = self._sequence_groups()
        self.tier = HostTier(context, workload.host_memory_bytes) if hosted else None
        self.offload = self._own_offload()
        self.engine = self._engine(weights)

    def _sequence_groups(self) -> Any:
        """DeepSpeed's module of Ulysses groups; None without Ulysses."""
        if self.settings.sequence_parallel == 1:
            return None
        from deepspeed.runtime.sequence_parallel import parallel_state_sp

        parallel_state_sp.initialize_sequence_parallel(self.settings.sequence_parallel)
        return parallel_state_sp

    def _attention(self) -> CoreAttention:
        if self.mpu is None:
            return local_attention
        from deepspeed.sequence.layer import DistributedAttention

        group = self.mpu.get_sequence_parallel_group()
        ulysses = DistributedAttention(local_attention, group, scatter_idx=2, gather_idx=1)
        return partial(ulysses, batch_dim_idx=0)

    def _own_offload(self) -> Any:
        """DeepSpeed's context of a forward and its backward, with hidden states on the host.

        Restored ones stay on the GPU until the context ends.
        """
        if not self.settings.host_hidden_states:
            return nullcontext()
        from deepspeed.runtime.activation_checkpointing import offload_activations

        return offload_activations.CheckpointHiddenStatesOffload()

    def _region(self) -> Region:
        """How a checkpointed region of the decoder is called."""
        checkpointing = self.settings.checkpointing
        if self.tier is not None:
            return hosted_region(checkpointing, self.tier)
        checkpointed = region(contexts_of(checkpointing))
        if self.settings.host_hidden_states:
            return hosted_by_deepspeed(checkpointed, self.offload)
        return checkpointed

    def _engine(self, weights: Weights) -> Any:
        with torch.device("meta"):
            decoder = Decoder(
                self.workload.model,
                self.settings,
                self._attention(),
                self._region(),
                sequence_rank=self.sequence_rank,
                loss_divisor=self.loss_divisor,
            )
        config = engine_config(self.workload, self.settings, self.sequences)
        device, dtype = self.context.device, self.context.dtype
        partitions = partitions_first(self.settings, device)
        home = torch.device("cpu") if partitions else device
        load_weights(decoder, weights, home, dtype, copy=not partitions)
        # Before weights are partitioned: then a matrix has one axis, as vectors have.
        if self.settings.offload_optimizer:
            optimizer = cpu_optimizer(decoder, self.workload.optimizer)
            config |= config_for(optimizer)
        else:
            optimizer = adamw(decoder, self.workload.optimizer, fused=True)
        if partitions:
            self.deepspeed.zero.Init(
                module=decoder, config_dict_or_path=config, dtype=dtype, mpu=self.mpu
            )
        if self.settings.zero_stage == 3 and self.settings.checkpointing == "save-attention":
            # torch's contexts count operators. ZeRO-3 gathers inside a region another number of
            # times in the backward; the weights of a leaf module are gathered outside.
            self.deepspeed.utils.set_z3_leaf_modules(decoder, [DecoderBlock])
        engine, *_ = self.deepspeed.initialize(
            model=decoder,
            optimizer=optimizer,
            config=config,
            mpu=self.mpu,
            dist_init_required=False,
        )
        return engine

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
        if self.tier is not None:
            self.tier.begin_step(total_tokens)
        loss = torch.zeros((), device=self.context.device)
        for number, sequence in enumerate(own.unsqueeze(1), 1):
            self.engine.set_gradient_accumulation_boundary(number == len(own))
            with self.offload:
                share = self.engine(sequence[:, :-1].contiguous(), sequence[:, 1:].contiguous())
                # A clone: ZeRO-0 divides the model's own output by the sequences all the same.
                self.engine.backward(share.clone(), scale_wrt_gas=False)
            loss += share.detach()
            last = self._norm_before_clipping()
            self.engine.step()
        dist.all_reduce(loss)
        norm = self.engine.get_global_grad_norm() if last is None else last
        shares = self.sequences * self.context.ranks / self.loss_divisor
        return StepResult(loss=loss.item() / shares, grad_norm=float(norm))

    def _norm_before_clipping(self) -> Tensor | None:
        """The norm of the clip, where the engine has no optimizer of its own and drops the norm."""
        has_norm = hasattr(self.engine.optimizer, "_global_grad_norm")
        if has_norm or not self.engine.is_gradient_accumulation_boundary():
            return None
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def least_sequences(self) -> int:
        """Two a replica, if there are two: ZeRO-3 reaches its steady state in the second."""
        return self.replicas * min(2, self.sequences)

    def tensors(self) -> Mapping[Kind, Iterable[Tensor]]:
        """The tensors of DeepSpeed's optimizer on this rank between calls.

        ZeRO-3: the partitions, and vectors too small for a partition; gathered matrices are
        temporary. Gradients: the buffers that outlive the backward. Optimizer: fp32 copies of this
        rank's weights (where they are copies) and AdamW's moments.
        """
        return engine_tensors(self.engine)

    def close(self) -> None:
        """Release the engine's hooks and the Ulysses groups."""
        import deepspeed.comm as deepspeed_comm
        from deepspeed.utils import groups

        self.engine.destroy()
        if self.mpu is None:
            return
        for group in (
            self.mpu.get_sequence_parallel_group(),
            self.mpu.get_sequence_data_parallel_group(),
        ):
            deepspeed_comm.destroy_process_group(group)
        # By itself DeepSpeed drops these only with the whole process group.
        self.mpu._release_sequence_parallel_groups()
        groups.mpu = None
