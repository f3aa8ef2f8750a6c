"""Names of systems, and their adapters, imported on first use."""

from __future__ import annotations

import importlib

from baselines.protocol import Adapter, Planner

_ADAPTERS = {
    "sppo": "baselines.sppo:ADAPTER",
    "megatron": "baselines.megatron.adapter:ADAPTER",
    "deepspeed": "baselines.deepspeed.adapter:ADAPTER",
    "reference": "baselines.reference:ADAPTER",
}

SYSTEMS = ("deepspeed", "megatron", "sppo")
"""The systems that are compared; `reference` is what they are all compared with."""


def load(name: str) -> Adapter:
    """The adapter of that name. Raises ValueError listing the known names."""
    if name not in _ADAPTERS:
        raise ValueError(f"unknown system {name!r}; known: {', '.join(sorted(_ADAPTERS))}")
    module, attribute = _ADAPTERS[name].split(":")
    adapter: Adapter = getattr(importlib.import_module(module), attribute)
    return adapter


def load_planner(name: str) -> Planner:
    """The adapter of that name, which plans. Raises ValueError where it does not."""
    adapter = load(name)
    if not isinstance(adapter, Planner):
        raise ValueError(f"{name} makes no plans: its settings are given or searched")
    return adapter
