"""The initial weights, made once and mapped into every system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sppo.config.models import Model
from sppo.plan.weights import weight_shapes

_TORCH_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a workload's dtype name."""
    return _TORCH_DTYPES[name]


def initial_weights(model: Model, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Canonical name -> tensor. Norm scales and biases are perturbed too.

    Ones and zeros would hide a wrong mapping from the equal-work gate, and so would attention
    scores near zero: queries and keys get unit variance. The same seed gives the same weights on
    every machine (CPU generator).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(model).items():
        deviation = 0.02
        if name.endswith(("query.weight", "key.weight")):
            deviation = model.hidden**-0.5
        value = deviation * torch.randn(shape, generator=generator, dtype=torch.float64)
        if "norm" in name and name.endswith("weight"):
            value += 1.0
        weights[name] = value.to(dtype)
    return weights


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    torch.save(dict(weights), path)


def map_weights(path: Path) -> dict[str, Tensor]:
    """Memory-mapped: no rank holds a copy of what it does not own."""
    weights: dict[str, Tensor] = torch.load(path, mmap=True, weights_only=True)
    return weights
