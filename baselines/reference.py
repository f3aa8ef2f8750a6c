"""The reference of equal work: a plain torch decoder in one process, one sequence at a time.

No sharding and no offload: ordinary autograd, `scaled_dot_product_attention`, `torch.optim.AdamW`
and `clip_grad_norm_`. Every system must reproduce its losses and norms. In bfloat16 it has float32
masters, as all systems have. Blocks are recomputed only where a GPU could not hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.checkpoint import checkpoint

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
from baselines.versions import version
from sppo.config.models import Model
from sppo.config.sizes import Dtype
from sppo.config.workload import Optimizer, Workload
from sppo.plan.weights import weight_shapes


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings:
    """dtype: that of weights and compute; None: the workload's.

    The initial weights are those of the workload's dtype in any case.
    """

    dtype: Dtype | None = None


SAVED_HIDDEN, SAVED_FFN = 20, 4
"""Elements that autograd saves for a token and block, about: times the hidden and the MLP width."""

SAVED_SHARE = 4
"""Blocks are recomputed where these take more than this part of a GPU: the rest is large too."""

TILE_TOKENS = 8192
"""Tokens of the loss with logits at a time, where blocks are recomputed."""


def needs_checkpoints(workload: Workload, element_bytes: int, device_bytes: int) -> bool:
    """Whether autograd would save too much of one sequence for a device of so many bytes."""
    model = workload.model
    elements = SAVED_HIDDEN * model.hidden + SAVED_FFN * model.ffn
    saved_bytes = workload.sequence_tokens * model.layers * elements * element_bytes
    return SAVED_SHARE * saved_bytes > device_bytes


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
    """A decoder whose parameters are exactly `weight_shapes(model)`, dots written as `__`.

    checkpoints: the backward recomputes every block, and the logits of every tile of the loss.
    """

    def __init__(
        self, model: Model, weights: Weights, context: Context, *, checkpoints: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.checkpoints = checkpoints
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

    def block(self, layer: str, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        x = x + self.attention(layer, self.norm(f"{layer}.norm1", x), cosines, sines)
        return x + self.mlp(layer, self.norm(f"{layer}.norm2", x))

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(x, self.weight("head.weight"))
        precise = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(precise, targets, reduction="sum")

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Sum of the cross entropies of one sequence; tokens and targets are int64 [T]."""
        x = F.embedding(tokens, self.weight("embedding.weight"))
        cosines, sines = rotary_tables(self.model, 0, len(tokens), x.device, x.dtype)
        for index in range(self.model.layers):
            x = self._run(self.block, f"layers.{index}", x, cosines, sines)
        x = self.norm("final_norm", x)
        if not self.checkpoints:
            return self.loss(x, targets)
        tiles = zip(x.split(TILE_TOKENS), targets.split(TILE_TOKENS), strict=True)
        return torch.stack([self._run(self.loss, *tile) for tile in tiles]).sum()

    def _run(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        if not self.checkpoints:
            return function(*inputs)
        out: Tensor = checkpoint(function, *inputs, use_reentrant=False)
        return out


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
    """One process, one model, one optimizer; in bfloat16 the optimizer has float32 masters."""

    def __init__(
        self, workload: Workload, settings: ReferenceSettings, weights: Weights, context: Context
    ) -> None:
        dtype = getattr(torch, settings.dtype) if settings.dtype else context.dtype
        self.workload = workload
        self.context = context = replace(context, dtype=dtype)
        self.model = ReferenceModel(
            workload.model, weights, context, checkpoints=self._needs_checkpoints(dtype)
        )
        self.masters = list(self.model.parameters())
        self.has_masters = dtype.itemsize < 4
        if self.has_masters:
            self.masters = [nn.Parameter(p.detach().float()) for p in self.masters]
        self.optimizer = adamw(nn.ParameterList(self.masters), workload.optimizer)

    def _needs_checkpoints(self, dtype: torch.dtype) -> bool:
        device = self.context.device
        if device.type != "cuda":
            return False
        device_bytes = torch.cuda.get_device_properties(device).total_memory
        return needs_checkpoints(self.workload, dtype.itemsize, device_bytes)

    def step(self, tokens: Tensor) -> StepResult:
        tokens = tokens.to(self.context.device)
        count = tokens[:, 1:].numel()
        self.optimizer.zero_grad(set_to_none=False)
        total = 0.0
        for sequence in tokens:
            loss = self.model(sequence[:-1], sequence[1:]) / count
            loss.backward()
            total += loss.item()
            self._add_gradients()
        norm = nn.utils.clip_grad_norm_(self.masters, self.workload.optimizer.clip_norm)
        self.optimizer.step()
        self._round_weights()
        return StepResult(loss=total, grad_norm=norm.item())

    def _add_gradients(self) -> None:
        """Add the gradients of a sequence to those of the masters, in float32."""
        if not self.has_masters:
            return
        for master, parameter in zip(self.masters, self.model.parameters(), strict=True):
            assert parameter.grad is not None
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            master.grad.add_(parameter.grad)
            parameter.grad = None

    def _round_weights(self) -> None:
        """The masters, rounded, are the weights of the next step."""
        if not self.has_masters:
            return
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.model.parameters(), strict=True):
                parameter.copy_(master)

    def tensors(self) -> Mapping[Kind, Iterable[Tensor]]:
        masters = self.masters if self.has_masters else []
        return {
            "weights": list(self.model.parameters()),
            "gradients": [p.grad for p in self.masters if p.grad is not None],
            "optimizer": [*masters, *state_tensors(self.optimizer)],
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
        words = "plain torch, one process"
        return f"{words}, {settings.dtype}" if settings.dtype else words

    def versions(self) -> dict[str, str]:
        return {"torch": version("torch")}

    def prepare(
        self, workload: Workload, settings: ReferenceSettings, weights: Weights, context: Context
    ) -> ReferenceSystem:
        if context.ranks != 1:
            raise Unavailable("the reference runs in one process; launch it with one rank")
        if not isinstance(settings, ReferenceSettings):  # those of a subclass in another package
            settings = ReferenceSettings()
        return ReferenceSystem(workload, settings, weights, context)


ADAPTER = ReferenceAdapter()
