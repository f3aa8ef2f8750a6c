"""The reference of equal work: a plain torch decoder in one process, one sequence at a time.

No sharding, no recompute, no offload: ordinary autograd, `scaled_dot_product_attention`,
`torch.optim.AdamW` and `clip_grad_norm_`. Every system must reproduce its losses and norms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from baselines.protocol import (
    Adapter,
    Context,
    Kind,
    StepResult,
    System,
    Unavailable,
    Weights,
    state_tensors,
)
from sppo.config.models import Model
from sppo.config.workload import Optimizer, Workload
from sppo.plan.weights import weight_shapes


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings:
    """No settings: the reference has one way to run."""


def rotary_tables(
    model: Model, start: int, end: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions start..end, each [end - start, head_width].

    The field's rotate-half convention: column i rotates with column i + head_width / 2.
    Angles are computed in float32 (float64 for a float64 model), as Megatron does.
    """
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    exponents = torch.arange(0, model.head_width, 2, device=device, dtype=precision)
    frequencies = 1.0 / model.rope_theta ** (exponents / model.head_width)
    positions = torch.arange(start, end, device=device, dtype=precision)
    angles = torch.outer(positions, frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """RoPE on [..., tokens, head_width]."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


class ReferenceModel(nn.Module):
    """A decoder whose parameters are exactly `weight_shapes(model)`, dots written as `__`."""

    def __init__(self, model: Model, weights: Weights, context: Context) -> None:
        super().__init__()
        self.model = model
        for name, shape in weight_shapes(model).items():
            value = weights[name].to(context.device, context.dtype, copy=True)
            assert value.shape == shape, f"{name}: {tuple(value.shape)} is not {shape}"
            self.register_parameter(name.replace(".", "__"), nn.Parameter(value))

    def weight(self, name: str) -> Tensor:
        return self.get_parameter(name.replace(".", "__"))

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.weight(f"{name}.bias") if self.model.biases else None
        return F.linear(x, self.weight(f"{name}.weight"), bias)

    def norm(self, name: str, x: Tensor) -> Tensor:
        width, epsilon = (self.model.hidden,), self.model.norm_epsilon
        weight = self.weight(f"{name}.weight")
        if self.model.norm == "rmsnorm":
            return F.rms_norm(x, width, weight, epsilon)
        return F.layer_norm(x, width, weight, self.weight(f"{name}.bias"), epsilon)

    def attention(self, layer: str, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        tokens, model = x.shape[0], self.model

        def heads(name: str, count: int) -> Tensor:
            projected = self.linear(f"{layer}.attention.{name}", x)
            return projected.view(1, tokens, count, model.head_width).transpose(1, 2)

        query = rotate(heads("query", model.heads), cosines, sines)
        key = rotate(heads("key", model.kv_heads), cosines, sines)
        value = heads("value", model.kv_heads)
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=model.kv_heads != model.heads
        )
        out = out.transpose(1, 2).reshape(tokens, model.hidden)
        return self.linear(f"{layer}.attention.output", out)

    def mlp(self, layer: str, x: Tensor) -> Tensor:
        up = self.linear(f"{layer}.mlp.up", x)
        if self.model.activation == "swiglu":
            hidden = F.silu(self.linear(f"{layer}.mlp.gate", x)) * up
        else:
            hidden = F.gelu(up)
        return self.linear(f"{layer}.mlp.down", hidden)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Sum of the cross entropies of one sequence; tokens and targets are int64 [T]."""
        x = F.embedding(tokens, self.weight("embedding.weight"))
        cosines, sines = rotary_tables(self.model, 0, len(tokens), x.device, x.dtype)
        for index in range(self.model.layers):
            layer = f"layers.{index}"
            x = x + self.attention(layer, self.norm(f"{layer}.norm1", x), cosines, sines)
            x = x + self.mlp(layer, self.norm(f"{layer}.norm2", x))
        logits = F.linear(self.norm("final_norm", x), self.weight("head.weight"))
        precise = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(precise, targets, reduction="sum")


def adamw(model: nn.Module, recipe: Optimizer, *, fused: bool | None = None) -> AdamW:
    """AdamW of a model: weight decay on matrices, none on vectors."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = recipe.beta1, recipe.beta2
    return AdamW(groups, lr=recipe.learning_rate, betas=betas, eps=recipe.epsilon, fused=fused)


class ReferenceSystem(System):
    """One process, one model, one optimizer."""

    def __init__(self, workload: Workload, weights: Weights, context: Context) -> None:
        self.workload = workload
        self.context = context
        self.model = ReferenceModel(workload.model, weights, context)
        self.optimizer = adamw(self.model, workload.optimizer)

    def step(self, tokens: Tensor) -> StepResult:
        tokens = tokens.to(self.context.device)
        count = tokens[:, 1:].numel()
        self.optimizer.zero_grad(set_to_none=False)
        total = 0.0
        for sequence in tokens:
            loss = self.model(sequence[:-1], sequence[1:]) / count
            loss.backward()
            total += loss.item()
        clip = self.workload.optimizer.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        return StepResult(loss=total, grad_norm=norm.item())

    def tensors(self) -> Mapping[Kind, Iterable[Tensor]]:
        parameters = list(self.model.parameters())
        return {
            "weights": parameters,
            "gradients": [p.grad for p in parameters if p.grad is not None],
            "optimizer": state_tensors(self.optimizer),
        }

    def close(self) -> None:
        """Nothing is held outside the process."""


class ReferenceAdapter(Adapter):
    """Plain torch in one process; `prepare` raises Unavailable in a launch of several ranks."""

    name = "reference"
    settings_type = ReferenceSettings

    def grid(self, workload: Workload) -> tuple[ReferenceSettings, ...]:
        return (ReferenceSettings(),)

    def check(self, workload: Workload, settings: ReferenceSettings) -> None:
        """Nothing: any model runs here, given the memory."""

    def describe(self, settings: ReferenceSettings) -> str:
        return "plain torch, one process"

    def versions(self) -> dict[str, str]:
        return {"torch": version("torch")}

    def prepare(
        self, workload: Workload, settings: ReferenceSettings, weights: Weights, context: Context
    ) -> ReferenceSystem:
        if context.ranks != 1:
            raise Unavailable("the reference runs in one process; launch it with one rank")
        return ReferenceSystem(workload, weights, context)


ADAPTER = ReferenceAdapter()
