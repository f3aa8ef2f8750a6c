"""FSDP2 as torchtitan applies it: a group for the embedding, each block, and norm with head.

A block may be compiled before it is sharded, so FSDP2's hooks stay outside of its graph.

With TP, `parallelize_module` first makes DTensors of a group's weights, and FSDP2 shards these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import parallelize_module

from baselines.native.model import Decoder, Groups
from baselines.native.settings import NativeSettings
from baselines.native.tensor_parallel import by_rank, plan_of
from baselines.protocol import Context, Weights
from sppo.config.workload import Workload

BACKEND = "inductor"
"""Of torch.compile."""


def sharded_decoder(
    workload: Workload,
    settings: NativeSettings,
    weights: Weights,
    context: Context,
    groups: Groups,
) -> Decoder:
    """The decoder with this rank's shards of all weights.

    In bfloat16 the shards, their gradients and AdamW's state are float32, and blocks compute in
    bfloat16. A group of weights is loaded whole and sharded before the next, so a device never
    holds all weights.
    """
    with torch.device("meta"):
        decoder = Decoder(workload.model, settings, groups)
    policy = MixedPrecisionPolicy()
    kept_dtype = context.dtype
    if context.dtype == torch.bfloat16:
        kept_dtype = torch.float32
        policy = MixedPrecisionPolicy(param_dtype=context.dtype, reduce_dtype=kept_dtype)
    shards_mesh, tensor_mesh = _meshes(groups, context)

    def shard(reshard: bool, **named: nn.Module) -> None:
        for name, module in named.items():
            own = own_weights(name, weights, settings, context.device, kept_dtype)
            module.load_state_dict(own, assign=True)
            if tensor_mesh is not None:
                # Every rank has all weights: none has to send them (`src_data_rank`).
                plan: Any = plan_of(name, workload.model)
                parallelize_module(module, tensor_mesh, plan, src_data_rank=None)
        modules = list(named.values())
        fully_shard(modules, mesh=shards_mesh, mp_policy=policy, reshard_after_forward=reshard)

    shard(settings.reshard_after_forward, embedding=decoder.embedding)
    for index, block in enumerate(decoder.layers):
        if settings.compile:
            # A graph for each length: the throw-away step is shorter than all others.
            block.compile(backend=BACKEND, fullgraph=True, dynamic=False)
        shard(settings.reshard_after_forward, **{f"layers.{index}": block})
    # The backward begins with these: to free them between would gather them twice for nothing.
    shard(False, final_norm=decoder.final_norm, head=decoder.head)
    fully_shard(decoder, mesh=shards_mesh, mp_policy=policy)
    for module in decoder.modules():
        if isinstance(module, FSDPModule):
            # A sum: the loss of a rank is its share of the step's mean.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return decoder


def _meshes(groups: Groups, context: Context) -> tuple[DeviceMesh, DeviceMesh | None]:
    """Of the ranks over which FSDP2 shards, and of a TP group; None without TP.

    A mesh has a table of ranks that torch reads: a real tensor, in an emulation too.
    """
    device_type = context.device.type
    with unset_fake_temporarily():
        if groups.tensor is None or groups.shards is None:
            world = dist.group.WORLD
            assert world is not None, "the process group exists before a system"
            return DeviceMesh.from_group(world, device_type), None
        # Named as the groups: torch keeps results by equal meshes, also those of a closed system.
        shards, tensor = groups.shards.group_name, groups.tensor.group_name
        both = DeviceMesh.from_group(
            [groups.shards, groups.tensor],
            device_type,
            torch.arange(context.ranks).view(-1, groups.tensor.size()),
            mesh_dim_names=(shards, tensor),
        )
    return both[shards], both[tensor]


def own_weights(
    module: str,
    weights: Weights,
    settings: NativeSettings,
    device: torch.device,
    dtype: torch.dtype,
) -> Mapping[str, Tensor]:
    """Copies of the canonical weights of a module, by the names of the module's state."""
    prefix = f"{module}."
    own = {
        name.removeprefix(prefix): value.to(device, dtype, copy=True)
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    for kind in [name.rpartition(".")[2] for name in own if name.startswith("attention.query.")]:
        parts = [own.pop(f"attention.{name}.{kind}") for name in ("query", "key", "value")]
        own[f"attention.qkv.{kind}"] = by_rank(parts, settings.tensor_parallel)
    return own
