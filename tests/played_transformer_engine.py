"""A stand-in for the package `transformer_engine`, in plain torch, for one rank on a CPU.

Megatron-Core takes it for TransformerEngine 2.5: its real TE layer spec and wrappers run on these
modules. Names and arguments follow TransformerEngine's; kernels, messages and CUDA are not there.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BUILT: list[tuple[str, dict[str, Any]]] = []
"""The modules that were built, each with its arguments; and offload contexts."""


def _norm(x: Tensor, kind: str, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    if kind == "RMSNorm":
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


class Linear(nn.Module):
    """As `transformer_engine.pytorch.Linear`."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, return_bias: bool, **rest: Any
    ) -> None:
        super().__init__()
        assert rest["tp_size"] == 1, "one rank alone"
        BUILT.append((type(self).__name__, rest))
        dtype, device = rest["params_dtype"], rest["device"]
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype))
        assert device == "cpu"
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype))
        else:
            self.bias = torch.empty(0)  # type: ignore[assignment]
        self.return_bias, self.parallel_mode = return_bias, rest["parallel_mode"]

    def forward(self, x: Tensor, is_first_microbatch: bool | None = None) -> Any:
        if self.return_bias:
            return F.linear(x, self.weight), self.bias
        return F.linear(x, self.weight, self.bias if self.bias.numel() else None)


class LayerNormLinear(Linear):
    """As `transformer_engine.pytorch.LayerNormLinear`: the norm's parameters lie inside."""

    def __init__(
        self, in_features: int, out_features: int, *, eps: float, normalization: str, **rest: Any
    ) -> None:
        super().__init__(in_features, out_features, **rest)
        self.eps, self.normalization = eps, normalization
        dtype = rest["params_dtype"]
        self.layer_norm_weight = nn.Parameter(torch.empty(in_features, dtype=dtype))
        if normalization == "LayerNorm":
            self.layer_norm_bias = nn.Parameter(torch.empty(in_features, dtype=dtype))

    def forward(self, x: Tensor, is_first_microbatch: bool | None = None) -> Any:
        bias = getattr(self, "layer_norm_bias", None)
        normed = _norm(x, self.normalization, self.layer_norm_weight, bias, self.eps)
        return super().forward(normed)


class _Norm(nn.Module):
    def __init__(self, *, hidden_size: int, eps: float, params_dtype: Any, **rest: Any) -> None:
        super().__init__()
        BUILT.append((type(self).__name__, rest))
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=params_dtype))
        if type(self).__name__ == "LayerNorm":
            self.bias = nn.Parameter(torch.empty(hidden_size, dtype=params_dtype))

    def forward(self, x: Tensor) -> Tensor:
        bias = getattr(self, "bias", None)
        return _norm(x, type(self).__name__, self.weight, bias, self.eps)


class LayerNorm(_Norm):
    """As `transformer_engine.pytorch.LayerNorm`."""


class RMSNorm(_Norm):
    """As `transformer_engine.pytorch.RMSNorm`."""


class DotProductAttention(nn.Module):
    """As `transformer_engine.pytorch.DotProductAttention`, without context parallelism."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        BUILT.append((type(self).__name__, given))

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, attn_mask_type: str
    ) -> Tensor:
        assert attn_mask_type == "causal"
        heads_first = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out = F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
        return out.permute(2, 0, 1, 3).flatten(2)


def _offload_context(*given: Any) -> tuple[Any, Any]:
    BUILT.append(("get_cpu_offload_context", {"given": given}))
    context = nullcontext()
    context.inside_context = False  # type: ignore[attr-defined]
    return context, lambda tensor: tensor


def _rotated(
    x: Tensor, angles: Tensor, tensor_format: str, interleaved: bool, fused: bool
) -> Tensor:
    assert (tensor_format, interleaved, fused) == ("sbhd", False, True)
    BUILT.append(("apply_rotary_pos_emb", {}))
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()


class _Never:
    """A name that a dense model in bfloat16 or float32 never calls."""


_MODULES: dict[str, dict[str, Any]] = {
    "": {"__version__": "2.5.0"},
    ".common": {},
    ".common.recipe": {"DelayedScaling": _Never},
    ".pytorch": {
        **{kind.__name__: kind for kind in (Linear, LayerNormLinear, LayerNorm, RMSNorm)},
        "DotProductAttention": DotProductAttention,
        "GroupedLinear": type("GroupedLinear", (nn.Module,), {}),
    },
    ".pytorch.attention": {},
    ".pytorch.attention.rope": {"apply_rotary_pos_emb": _rotated},
    ".pytorch.cpu_offload": {"get_cpu_offload_context": _offload_context},
    ".pytorch.distributed": {
        "CudaRNGStatesTracker": _Never,
        "activation_recompute_forward": _Never,
        "get_all_rng_states": dict,
    },
    ".pytorch.fp8": {"FP8GlobalStateManager": _Never, "fp8_autocast": _Never},
    ".pytorch.ops": {"FusibleOperation": _Never, "Sequential": _Never},
    ".pytorch.tensor": {"QuantizedTensor": _Never},
}


def install() -> None:
    """Put the package into this process, which must not have imported megatron.core yet."""
    assert "megatron.core" not in sys.modules
    for suffix, names in _MODULES.items():
        name = f"transformer_engine{suffix}"
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        vars(module).update(names)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
