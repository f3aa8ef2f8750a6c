"""The measured profile of the device, saved for the planner."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.gpu.measure import measure
from benchmarks.gpu.place import Place
from benchmarks.records import store
from sppo.config.hardware import load_hardware
from sppo.kernels import choice

NAME = "profile.json"


def profile(place: Place) -> dict[str, Any]:
    """Measure, save profile.json in the suite's folder, and read it as the planner does.

    Attention is by the kernel that `sppo-bench run` would choose.
    """
    model = place.sizes.model
    heads = choice.Heads(query=model.heads, kv=model.kv_heads, width=model.head_width)
    dtype = getattr(torch, place.dtype)
    chosen = choice.choose(place.device, dtype, heads)
    choice.select(chosen.name, place.device, dtype, heads)
    measured, copies = measure(place, "measured-gpu")
    path = place.directory / NAME
    store.write_bytes(path, (json.dumps(asdict(measured), indent=1) + "\n").encode())
    load_hardware(str(path))
    return {
        "profile": asdict(measured),
        "copies": asdict(copies),
        "attention": asdict(chosen),
        "file": NAME,
    }
