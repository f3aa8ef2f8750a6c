"""What is trained, on what: Model, Cluster and Workload. No torch; everything else reads these.

Sizes follow the field: 1K = 1,024 tokens, 1M = 1,048,576 tokens, GiB = 2**30 bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

KIB = 1024
MIB = 1024**2
GIB = 1024**3

Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "swiglu"]
Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "float64", "bfloat16"]

DTYPE_BYTES: dict[Dtype, int] = {"float32": 4, "float64": 8, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Model:
    """The shape of a decoder: RoPE, no learned positions, untied embedding and head.

    `biases` puts a bias on every linear layer of a block (GPT); the head never has one.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    norm: Norm
    activation: Activation
    biases: bool
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for field in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocabulary"):
            if getattr(self, field) < 1:
                raise ValueError(f"model {self.name}: {field} must be at least 1")
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(
                f"model {self.name}: hidden {self.hidden} must split into {self.heads} heads "
                "of an even width (RoPE rotates pairs)"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model {self.name}: heads {self.heads} must be a multiple of kv_heads "
                f"{self.kv_heads}"
            )

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        """Columns of K (and of V): kv_heads * head_width."""
        return self.kv_heads * self.head_width

    @property
    def parameters(self) -> int:
        total = 0
        for shape in weight_shapes(self).values():
            size = 1
            for extent in shape:
                size *= extent
            total += size
        return total


def gpt(name: str, *, layers: int, hidden: int, heads: int, vocabulary: int = 50_304) -> Model:
    """The paper's GPT: LayerNorm, GELU, a 4h MLP, biases, multi-head attention."""
    return Model(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        ffn=4 * hidden,
        vocabulary=vocabulary,
        norm="layernorm",
        activation="gelu",
        biases=True,
    )


def llama(
    name: str,
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocabulary: int,
    rope_theta: float = 500_000.0,
) -> Model:
    """A Llama shape: RMSNorm, SwiGLU, grouped-query attention, no biases."""
    return Model(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        vocabulary=vocabulary,
        norm="rmsnorm",
        activation="swiglu",
        biases=False,
        rope_theta=rope_theta,
    )


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        gpt("gpt-1b", layers=24, hidden=2048, heads=16),
        gpt("gpt-7b", layers=32, hidden=4096, heads=32),
        gpt("gpt-13b", layers=40, hidden=5120, heads=40),
        gpt("gpt-65b", layers=80, hidden=8192, heads=64),
        llama(
            "llama-8b",
            layers=32,
            hidden=4096,
            heads=32,
            kv_heads=8,
            ffn=14_336,
            vocabulary=128_256,
        ),
        gpt("gpt-tiny", layers=4, hidden=256, heads=4, vocabulary=256),
        llama(
            "llama-tiny",
            layers=4,
            hidden=256,
            heads=4,
            kv_heads=2,
            ffn=688,
            vocabulary=256,
            rope_theta=10_000.0,
        ),
    )
}


def weight_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Canonical parameter names and shapes, [out, in] as torch's Linear has them.

    Every system loads these names; matrices (two axes) carry weight decay, vectors never do.
    """
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (model.vocabulary, model.hidden)}
    for layer in range(model.layers):
        for name, shape in layer_weight_shapes(model).items():
            shapes[f"layers.{layer}.{name}"] = shape
    shapes["final_norm.weight"] = (model.hidden,)
    if model.norm == "layernorm":
        shapes["final_norm.bias"] = (model.hidden,)
    shapes["head.weight"] = (model.vocabulary, model.hidden)
    return shapes


def layer_weight_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The parameters of one decoder block, without the `layers.{i}.` prefix."""
    linears = {
        "attention.query": (model.hidden, model.hidden),
        "attention.key": (model.kv_width, model.hidden),
        "attention.value": (model.kv_width, model.hidden),
        "attention.output": (model.hidden, model.hidden),
    }
    if model.activation == "swiglu":
        linears["mlp.gate"] = (model.ffn, model.hidden)
    linears["mlp.up"] = (model.ffn, model.hidden)
    linears["mlp.down"] = (model.hidden, model.ffn)
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("norm1", "norm2"):
        shapes[f"{norm}.weight"] = (model.hidden,)
        if model.norm == "layernorm":
            shapes[f"{norm}.bias"] = (model.hidden,)
    for name, shape in linears.items():
        shapes[f"{name}.weight"] = shape
        if model.biases:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


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

    `device_memory_bytes` is what one rank's device may hold (weights, gradients, optimizer state,
    activations); None means no limit. `host_memory_bytes` is the host tier of one rank.
    `sequence_parallel` and `pipeline_parallel` fix SPPO's degrees, and with them those of whoever
    runs in the same layout; None leaves them to the solver.
    `text` is "stdlib" (the Python standard library's sources as bytes) or a file or folder.
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
        return self.sequence_tokens * self.sequences_per_step

    @property
    def element_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    def with_device_memory(self, device_memory_bytes: int | None) -> Workload:
        return replace(self, device_memory_bytes=device_memory_bytes)


_SUFFIX = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def parse_tokens(text: str) -> int:
    """Tokens from "4096", "128K" or "1M" (1K = 1,024). Raises ValueError naming the cure.

    What is no whole number is rounded up to one that ranks can share: "1.3M" to whole K.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text.strip(), flags=re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a token count: {text!r}; write 4096, 128K or 1M")
    unit = _SUFFIX[match[2].upper()]
    tokens = float(match[1]) * unit
    step = max(1, min(KIB, unit // 64))
    return int(tokens) if tokens.is_integer() else math.ceil(tokens / step) * step


def parse_bytes(text: str) -> int | None:
    """Bytes from "160MiB", "79.15GiB" or "4096"; "none" is None. Raises ValueError."""
    if text.strip().lower() == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMG])i?B?|B)?", text.strip(), flags=re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a size: {text!r}; write 160MiB, 79.15GiB or none")
    size_bytes = round(float(match[1]) * _SUFFIX[(match[2] or "").upper()])
    if size_bytes < 1:
        raise ValueError(f"not a size: {text!r}; it must be positive")
    return size_bytes


def format_bytes(size_bytes: int) -> str:
    """ "160 MiB", "1.50 GiB": for people; records keep bytes."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.2f} GiB"
    if size_bytes >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    return f"{size_bytes / KIB:.1f} KiB"
