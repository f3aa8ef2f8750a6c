"""The initial weights, made once and mapped into every system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sppo.config.models import Model
from sppo.plan.weights import weight_shapes


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a workload's dtype name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def initial_weights(model: Model, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Canonical name -> tensor, the same for a seed on every machine (CPU generator).

    Norm scales and biases are random too, and queries and keys have unit variance: with ones,
    zeros or scores near zero the equal-work gate would miss a wrong mapping of weights.
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
    """Write the weights for `map_weights`. Raises OSError, for which torch has another name."""
    try:
        torch.save(dict(weights), path)
    except RuntimeError as error:
        words = str(error).splitlines()[0]
        raise OSError(f"{path}: not written, the disk may be full ({words})") from None


def map_weights(path: Path) -> dict[str, Tensor]:
    """The weights, memory-mapped, so that no rank holds a copy of all."""
    weights: dict[str, Tensor] = torch.load(path, mmap=True, weights_only=True)
    return weights
