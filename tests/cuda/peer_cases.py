"""The settings of peers whose CUDA branches run on fake CUDA tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sppo.config.models import Model, gpt, llama
from sppo.config.workload import Cluster, Workload

GPT = gpt("gpt-peer", layers=3, hidden=64, heads=4, vocabulary=64)
LLAMA = llama("llama-peer", layers=3, hidden=64, heads=4, kv_heads=2, ffn=96, vocabulary=64)

TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class PeerCase:
    """The last rank of a system, and what a step of it must call.

    settings: those of its adapter. attentions: forwards of the flash operator. messages: names of
    collectives.
    """

    name: str
    system: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    ranks: int = 1
    model: Model = GPT
    attentions: int = GPT.layers
    messages: frozenset[str] = frozenset(("c10d::allreduce_",))
    optimizer_device: str = "cuda:0"

    @property
    def workload(self) -> Workload:
        return Workload(
            name="peer",
            model=self.model,
            sequence_tokens=TOKENS,
            sequences_per_step=1,
            dtype="bfloat16",
            cluster=Cluster(hardware="h100-80g", device="cuda", nodes=1, ranks_per_node=self.ranks),
        )


ULYSSES = frozenset(("c10d::alltoall_base_",))
"""DeepSpeed's; in ZeRO-3 its gathers and reductions come with it."""

ZERO_3 = ULYSSES | {"c10d::_allgather_base_", "c10d::_reduce_scatter_base_"}

FUNCTIONAL = "_c10d_functional"
FSDP2 = frozenset(("c10d::_allgather_base_", "c10d::_reduce_scatter_base_", "c10d::allreduce_"))

CASES = (
    PeerCase(name="reference", system="reference", messages=frozenset()),
    PeerCase(
        name="ZeRO-1, hosted",
        system="deepspeed",
        settings={
            "sequence_parallel": 1,
            "zero_stage": 1,
            "checkpointing": "blocks",
            "host_hidden_states": True,
        },
        attentions=2 * GPT.layers,
    ),
    PeerCase(
        name="ZeRO-2, overlap",
        system="deepspeed",
        settings={
            "sequence_parallel": 2,
            "zero_stage": 2,
            "checkpointing": "split",
            "overlap_comm": True,
        },
        ranks=2,
        messages=ULYSSES | {"c10d::_allgather_base_"},
    ),
    PeerCase(
        name="ZeRO-3, hosted, optimizer on the host",
        system="deepspeed",
        settings={
            "sequence_parallel": 2,
            "zero_stage": 3,
            "checkpointing": "save-attention",
            "tiled_loss": True,
            "tiled_mlp": 4,
            "host_hidden_states": True,
            "offload_optimizer": True,
        },
        ranks=2,
        model=LLAMA,
        messages=ZERO_3,
        optimizer_device="cpu",
    ),
    PeerCase(
        name="ZeRO-1, optimizer on the host",
        system="deepspeed",
        settings={
            "sequence_parallel": 2,
            "zero_stage": 1,
            "checkpointing": "split",
            "offload_optimizer": True,
        },
        ranks=2,
        messages=ULYSSES,
        optimizer_device="cpu",
    ),
    PeerCase(
        name="FSDP2",
        system="native",
        settings={"sequence_parallel": 1, "checkpointing": "full"},
        attentions=2 * GPT.layers,
    ),
    PeerCase(
        name="FSDP2, Ulysses 2",
        system="native",
        settings={"sequence_parallel": 2, "checkpointing": "save-messages"},
        ranks=2,
        model=LLAMA,
        messages=FSDP2 | {f"{FUNCTIONAL}::all_to_all_single"},
    ),
    PeerCase(
        name="FSDP2, TP 2 x ring 2",
        system="native",
        settings={
            "sequence_parallel": 1,
            "tensor_parallel": 2,
            "context_parallel": 2,
            "checkpointing": "save-attention",
            "reshard_after_forward": False,
        },
        ranks=4,
        attentions=2 * GPT.layers,  # a turn of the ring each
        messages=FSDP2 | {f"{FUNCTIONAL}::reduce_scatter_tensor"},
    ),
    PeerCase(
        name="Megatron",
        system="megatron",
        settings={"recompute": "full"},
        attentions=2 * GPT.layers,
    ),
)

BY_NAME = {case.name: case for case in CASES}
