"""Rates of the engine's own chunk: a subsequence alone and after a prefix, forward and backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sppo.comm.in_process import connect_threads
from sppo.config.hardware import load_hardware
from sppo.config.models import Model
from sppo.config.sizes import Dtype
from sppo.config.workload import Cluster, Workload
from sppo.engine.context import EngineContext
from sppo.engine.part import Part
from sppo.engine.stage import Stage
from sppo.model.weights import StageWeights
from sppo.plan.blocks import block_of
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve


def chunk_of(
    model: Model,
    weights: Mapping[str, Tensor],
    *,
    length: int,
    prefix: int,
    profile: str,
    device: torch.device,
    dtype: Dtype,
) -> Part:
    """The first of two stages of the model, for `length` tokens after `prefix` tokens.

    profile: of the plan, which has neither slices nor shards. weights: canonical and full-size.
    """
    workload = Workload(
        name="profile",
        model=model,
        cluster=Cluster(
            hardware=profile,
            device="cpu" if load_hardware(profile).device == "cpu" else "cuda",
            nodes=1,
            ranks_per_node=2,
        ),
        sequence_tokens=length + prefix,
        dtype=dtype,
    )
    layout = SolverOptions(
        pipeline_parallel=2, subsequences=2 if prefix else 1, virtual_stages=1, msp=False
    )
    options = replace(layout, policy="no-offload", cut="equal", kv_offload=False)
    plan = solve(workload, load_hardware(profile), options)
    lengths = (prefix, length) if prefix else (length,)
    plan = replace(plan, lengths_tokens=lengths, prediction=None)
    context = EngineContext(device=device, dtype=getattr(torch, dtype))
    groups = connect_threads(plan)[0]
    stage_weights = StageWeights(plan, 0, weights, device, context.dtype, groups.shards)
    return Stage(plan, stage_weights, context, groups).parts[0]


class Sampler:
    """Forward and backward of a chunk, repeated; seconds per layer.

    meet: called before each sample, such as a barrier of all ranks. finish: waits for the device.
    """

    def __init__(
        self,
        part: Part,
        length: int,
        prefix: int,
        *,
        meet: Callable[[], object],
        finish: Callable[[], object],
    ) -> None:
        self.part = part
        self.index = 1 if prefix else 0
        self.meet = meet
        self.finish = finish
        context, model = part.context, part.plan.model
        self.tokens = torch.randint(0, model.vocabulary, (length,)).to(context.device)
        gradient = torch.randn(length, model.hidden)
        self.gradient = gradient.to(context.device, context.dtype)
        self.seconds: list[tuple[float, float]] = []

    def sample(self) -> None:
        """One forward and one backward."""
        self.meet()
        start = time.perf_counter()
        self.part.forward(0, self.index, self.tokens, None, 1.0)
        self.finish()
        middle = time.perf_counter()
        self.part.backward(0, self.index, self.gradient, self.tokens)
        self.finish()
        layers = len(self.part.model.layers)
        self.seconds.append(((middle - start) / layers, (time.perf_counter() - middle) / layers))

    def medians(self) -> tuple[float, float]:
        """Medians of forward and backward, without the first sample, which warms up."""
        forwards, backwards = zip(*self.seconds[1:], strict=True)
        return statistics.median(forwards), statistics.median(backwards)


def split_rates(
    model: Model,
    length: int,
    prefix_tokens: int,
    alone: tuple[float, float],
    after_prefix: tuple[float, float],
) -> dict[str, float]:
    """FLOP/s by kind, of (forward, backward) seconds without and with a prefix.

    The two differ by the attention to the prefix.
    """
    block = block_of(model)
    dense = block.dense_flops_per_token * length
    own = block.mixer_flops(0, length)
    prefix = block.mixer_flops_per_pair * length * prefix_tokens
    rates: dict[str, float] = {}
    directions = zip(("forward", "backward"), (1, 2), alone, after_prefix, strict=True)
    for direction, factor, short, long in directions:
        attention_rate = factor * prefix / max(long - short, 1e-6)
        dense_seconds = max(short - factor * own / attention_rate, short / 10)
        rates[f"dense_{direction}"] = factor * dense / dense_seconds
        rates[f"attention_{direction}"] = attention_rate
    return rates
