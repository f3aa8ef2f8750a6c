"""Names of systems, and their adapters, imported on first use."""

from __future__ import annotations

import importlib

from baselines.protocol import Adapter

_ADAPTERS = {
    "sppo": "baselines.sppo:ADAPTER",
    "megatron": "baselines.megatron.adapter:ADAPTER",
    "deepspeed": "baselines.deepspeed.adapter:ADAPTER",
    "reference": "baselines.reference:ADAPTER",
}

_REGISTERED: dict[str, Adapter] = {}

SYSTEMS = ("deepspeed", "megatron", "sppo")
"""The systems that are compared; `reference` is what they are all compared with."""


def register(name: str, adapter: Adapter) -> None:
    """Add a system of one's own, for this process alone: launched ranks know only the table above.

    Raises ValueError where the name is taken.
    """
    if name in _ADAPTERS or name in _REGISTERED:
        raise ValueError(f"there is a system {name!r} already: take another name")
    _REGISTERED[name] = adapter


def load(name: str) -> Adapter:
    """The adapter of that name. Raises ValueError listing the known names."""
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _ADAPTERS:
        known = sorted({*_ADAPTERS, *_REGISTERED})
        raise ValueError(f"unknown system {name!r}; known: {', '.join(known)}")
    module, attribute = _ADAPTERS[name].split(":")
    adapter: Adapter = getattr(importlib.import_module(module), attribute)
    return adapter
