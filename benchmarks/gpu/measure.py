"""A measured hardware profile of one GPU, which the planner reads like a committed one.

Measured are rates by length, copies, memory and the peak, and in a world of one the memory of a
communicator. Links between GPUs keep the numbers of the nearest committed profile, and say so.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.communicators import communicator_bytes
from benchmarks.gpu.copies import CopyRates, copy_rates
from benchmarks.gpu.place import Place, random_weights
from benchmarks.records.metrics import datasheet_peak
from benchmarks.worker.matmul_peak import best_matmul, matrix_size
from benchmarks.worker.rates.chunk_rates import Sampler, chunk_of, split_rates
from sppo.config.hardware import Hardware, Rates, load_hardware
from sppo.config.models import Model
from sppo.kernels.registry import selected

CHUNK_LAYERS = 2
"""Layers of the measured model. Its first stage has one, and its vocabulary costs nothing."""

VOCABULARY = 256


def measure(place: Place, name: str) -> tuple[Hardware, CopyRates]:
    """Measure the place's device. Raises RuntimeError or NotSupported where a part cannot run."""
    base = load_hardware(place.profile)
    context = context_bytes(place)
    rates = [rates_of(place, tokens) for tokens in place.sizes.lengths]
    copies = copy_rates(place)
    communicator = communicator_bytes(place)
    peak, peak_source = peak_of(place)
    where = (
        f"{place.device_name}, attention by {selected[place.device.type].name}, torch "
        f"{torch.__version__}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    )
    measured: dict[str, Any] = {
        "rates": tuple(rates),
        "layer_overhead_seconds": 0.0,
        "peak_flops_per_second": peak,
        "memory_bytes_per_second": memory_rate(place),
        "host_memory_bytes_per_rank": psutil.virtual_memory().available,
        "d2h_bytes_per_second": copies.d2h,
        "h2d_bytes_per_second": copies.h2d,
    }
    sources = {
        "layer_overhead_seconds": "none: the rates of short subsequences contain it",
        "peak_flops_per_second": peak_source,
        "memory_bytes_per_second": f"layer norm and GELU, {place.dtype}, {where}",
        "host_memory_bytes_per_rank": f"available to one process, {where}",
        "d2h_bytes_per_second": f"a copy alone, both at once {copies.d2h_together:.3g}, {where}",
        "h2d_bytes_per_second": f"a copy alone, both at once {copies.h2d_together:.3g}, {where}",
    }
    if place.on_cuda:
        total = torch.cuda.get_device_properties(place.device).total_memory
        measured["device_memory_bytes"] = total
        sources["device_memory_bytes"] = f"as torch reports it, {where}"
    if context is not None:
        measured["context_bytes"] = min(context, base.reserve_bytes)
        sources["context_bytes"] = f"the driver's use before any kernel, {where}"
    if communicator is not None:
        measured["communicator_bytes"] = communicator
        sources["communicator_bytes"] = f"a group of one rank over NCCL, {where}"
    kept = {
        field: f"not measured here, as in {base.name}: {source}"
        for field, source in base.sources.items()
        if field not in sources and not field.startswith(("dense_", "attention_"))
    }
    model = place.sizes.model
    profile = replace(
        base,
        name=name,
        kind="measured",
        source=(
            f"measured with layers of hidden {model.hidden:,} and head width {model.head_width}, "
            f"{place.dtype}, on {where} (sppo-bench profile --gpu)"
        ),
        sources={**kept, **sources},
        dtype=place.dtype,
        **measured,
    )
    return profile, copies


def rates_of(place: Place, tokens: int) -> Rates:
    """Rates of subsequences of so many tokens, by the engine's own chunk of one layer."""
    model = _chunk_model(place.sizes.model)
    weights = random_weights(model, place.device, getattr(torch, place.dtype))
    prefix = place.sizes.prefix_tokens
    samplers = [_sampler(place, model, weights, tokens, before) for before in (0, prefix)]
    for _ in range(place.sizes.repeats + 1):
        for sampler in samplers:
            sampler.sample()
    alone, after_prefix = (sampler.medians() for sampler in samplers)
    del samplers, sampler
    gc.collect()  # chunks and hooks form circles
    return Rates(tokens=tokens, **split_rates(model, tokens, prefix, alone, after_prefix))


def _chunk_model(model: Model) -> Model:
    return replace(model, name=f"{model.name}-chunk", layers=CHUNK_LAYERS, vocabulary=VOCABULARY)


def _sampler(
    place: Place, model: Model, weights: Mapping[str, Tensor], tokens: int, prefix: int
) -> Sampler:
    part = chunk_of(
        model,
        weights,
        length=tokens,
        prefix=prefix,
        profile=place.profile,
        device=place.device,
        dtype=place.dtype,
    )
    return Sampler(part, tokens, prefix, meet=place.finish, finish=place.finish)


def memory_rate(place: Place) -> float:
    """Bytes/s, read and written, of a layer norm and a GELU of the longest measured length."""
    model, tokens = place.sizes.model, min(place.sizes.lengths[-1], 16384)
    options = {"device": place.device, "dtype": getattr(torch, place.dtype)}
    narrow = torch.randn(tokens, model.hidden, **options)
    wide = torch.randn(tokens, model.ffn, **options)
    weight, bias = torch.ones(model.hidden, **options), torch.zeros(model.hidden, **options)

    def recompute() -> None:
        F.layer_norm(narrow, [model.hidden], weight, bias)
        F.gelu(wide)

    place.seconds_of(recompute)
    seconds = min(place.seconds_of(recompute) for _ in range(place.sizes.repeats))
    return 2 * (narrow.nbytes + wide.nbytes) / max(seconds, 1e-9)


def peak_of(place: Place) -> tuple[float, str]:
    """FLOP/s of the datasheet where it lists the card, else of the best matrix product."""
    known = datasheet_peak(place.device_name)
    if known is not None:
        return known.flops_per_second, known.source
    size = matrix_size(place.device.type)
    peak = best_matmul(1, place.device.type, place.dtype, 0.2)
    return peak, f"best of repeated {size} x {size} products, {place.dtype}, {place.device_name}"


def context_bytes(place: Place) -> int | None:
    """Device bytes that the driver holds beside torch's own; None on a CPU."""
    if not place.on_cuda:
        return None
    torch.zeros(1, device=place.device)
    place.finish()
    free, total = torch.cuda.mem_get_info(place.device)
    return max(0, total - free - torch.cuda.memory_reserved(place.device))
