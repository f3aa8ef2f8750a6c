"""Cluster, Optimizer and Workload: the training step to plan or run. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sppo.config.models import Model
from sppo.config.sizes import DTYPE_BYTES, Dtype

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The ranks a workload runs on. `hardware` names a profile of
    `sppo/config/hardware_profiles/`."""

    hardware: str
    device: Device
    nodes: int
    ranks_per_node: int

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.ranks_per_node < 1:
            raise ValueError("a cluster needs at least one node and one rank per node")

    @property
    def ranks(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW with fp32 state, the same for every system; decay applies to matrices only."""

    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One optimizer step: `sequences_per_step` sequences of `sequence_tokens` tokens each.

    `device_memory_bytes` is the limit of one rank's device (weights, gradients, optimizer state,
    activations); None means no limit. `host_memory_bytes` is the host tier of one rank.
    `sequence_parallel` and `pipeline_parallel` fix the degrees of SPPO, and of systems in its
    layout; None leaves them to the solver.
    `text` is "stdlib" (the Python standard library's sources) or a file or folder of text or token
    ids. `data_field` names the text in JSONL. `tokenizer` is a tokenizer.json; None means bytes.
    """

    name: str
    model: Model
    cluster: Cluster
    sequence_tokens: int
    sequences_per_step: int = 1
    dtype: Dtype = "float32"
    optimizer: Optimizer = Optimizer()
    device_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    sequence_parallel: int | None = None
    pipeline_parallel: int | None = None
    text: str = "stdlib"
    data_field: str | None = None
    tokenizer: str | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.sequence_tokens < 2:
            raise ValueError(f"workload {self.name}: a sequence needs at least 2 tokens")
        if self.sequences_per_step < 1:
            raise ValueError(f"workload {self.name}: at least one sequence per step")
        for field in ("device_memory_bytes", "host_memory_bytes"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"workload {self.name}: {field} must be positive or None")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of all sequences of a step."""
        return self.sequence_tokens * self.sequences_per_step

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of the dtype."""
        return DTYPE_BYTES[self.dtype]

    def with_device_memory(self, device_memory_bytes: int | None) -> Workload:
        """The same workload under another device limit."""
        return replace(self, device_memory_bytes=device_memory_bytes)
