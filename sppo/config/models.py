"""The models that are trained: GPT and Llama, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "swiglu"]


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
        """Columns of one head of Q, K or V."""
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        """Columns of K (and of V): kv_heads * head_width."""
        return self.kv_heads * self.head_width


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


def llama(name: str, *, rope_theta: float = 500_000.0, **sizes: int) -> Model:
    """A Llama shape: RMSNorm, SwiGLU, grouped-query attention, no biases."""
    return Model(
        name=name,
        norm="rmsnorm",
        activation="swiglu",
        biases=False,
        rope_theta=rope_theta,
        **sizes,
    )


_MODELS = (
    gpt("gpt-1b", layers=24, hidden=2048, heads=16),
    gpt("gpt-7b", layers=32, hidden=4096, heads=32),
    gpt("gpt-7b-slice", layers=4, hidden=4096, heads=32),
    gpt("gpt-13b", layers=40, hidden=5120, heads=40),
    gpt("gpt-65b", layers=80, hidden=8192, heads=64),
    llama("llama-8b", layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14_336, vocabulary=128_256),
    llama(
        "llama-8b-slice",
        layers=4,
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

MODELS = {model.name: model for model in _MODELS}
