"""Measure a hardware profile: the engine's own chunk on every rank at once, copies and messages.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \
        -m benchmarks.worker.rates.measure_hardware cpu-2core \
        sppo/config/hardware_profiles/cpu-2core.json

All ranks measure at the same time, because they share memory and links in training. The rates are
those of the measured model (`source` names it): a small hidden size is slower.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F

from benchmarks.environment import cpu_model
from benchmarks.worker import device as devices
from benchmarks.worker.matmul_peak import best_matmul, matrix_size
from benchmarks.worker.parent import end_with_parent
from benchmarks.worker.rates.chunk_rates import Sampler, chunk_of, split_rates
from benchmarks.worker.weights import initial_weights
from sppo.comm.messages import GroupTransport
from sppo.config.hardware import Hardware, Rates, load_hardware
from sppo.config.models import MODELS
from sppo.config.sizes import MIB
from sppo.offload.host_memory import HostArena

BASE = "cpu-2core"
"""The profile of the plans here, and of the numbers that are not measured, with their reasons."""

MODEL = MODELS["gpt-tiny"]

LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
PREFIX_TOKENS = 3072
REPEATS = 15
CODE_LENGTHS = (520, 584, 648, 712)
"""Tokens that no further measurement uses."""

ELEMENTWISE_TOKENS = 1024
"""Tokens of the saved tensor on which the element-wise kernels are measured."""

_SIZE = matrix_size("cpu")

SOURCES = {
    "peak_flops_per_second": f"best of repeated {_SIZE} x {_SIZE} products, float32",
    "memory_bytes_per_second": "layer norm and GELU, float32",
    "kernel_code_bytes": "private memory that a GELU of a new shape keeps",
    "collective_bytes_per_second": "all_gather of 16 MiB over gloo",
}
"""The measurements whose source names machine and date, by field of the profile."""


def _median_seconds(action: Callable[[], object]) -> float:
    """Median time of an action that all ranks begin together."""
    action()
    times = []
    for _ in range(REPEATS):
        dist.barrier()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _sampler(length: int, prefix: int) -> Sampler:
    """The first of two stages of gpt-tiny, for `length` tokens after `prefix` tokens."""
    part = chunk_of(
        MODEL,
        initial_weights(MODEL, 1, torch.float32),
        length=length,
        prefix=prefix,
        profile=BASE,
        device=torch.device("cpu"),
        dtype="float32",
    )
    return Sampler(part, length, prefix, meet=dist.barrier, finish=lambda: None)


def _every_rate() -> list[Rates]:
    """Rates by length. The lengths take turns, so that a slow minute slows all of them."""
    samplers = [(_sampler(length, 0), _sampler(length, PREFIX_TOKENS)) for length in LENGTHS]
    for _ in range(REPEATS + 1):
        for alone, after_prefix in samplers:
            alone.sample()
            after_prefix.sample()
    return [
        _rates(length, alone.medians(), after_prefix.medians())
        for length, (alone, after_prefix) in zip(LENGTHS, samplers, strict=True)
    ]


def _rates(length: int, alone: tuple[float, float], after_prefix: tuple[float, float]) -> Rates:
    """From (forward, backward) seconds without and with PREFIX_TOKENS; the mean over ranks."""
    rates = split_rates(MODEL, length, PREFIX_TOKENS, alone, after_prefix)
    means = _mean_over_ranks(list(rates.values()))
    return Rates(tokens=length, **dict(zip(rates, means, strict=True)))


def _copy_rates() -> tuple[float, float]:
    """Bytes/s into and out of the host tier (D2H, H2D), in tensors of 1 MiB."""
    arena = HostArena(16 * MIB, torch.device("cpu"))
    data = torch.ones(1 * MIB, dtype=torch.uint8)

    def offload() -> None:
        arena.used_bytes = 0
        for _ in range(16):
            arena.store(data)

    def reload() -> None:
        for index in reversed(range(16)):
            arena.used_bytes = (index + 1) * MIB
            slot = slice(index * MIB, (index + 1) * MIB)
            arena.load(slot, torch.empty(MIB, dtype=torch.uint8))

    return 16 * MIB / _median_seconds(offload), 16 * MIB / _median_seconds(reload)


def _message_cost() -> tuple[float, float]:
    """Bytes/s and latency of one message between neighbours (half a ping-pong)."""
    transport, rank = GroupTransport(range(dist.get_world_size())), dist.get_rank()
    peer = rank ^ 1

    def ping(elements: int) -> float:
        buffer = torch.zeros(elements)

        def exchange() -> None:
            if rank % 2 == 0:
                transport.send(buffer, peer)
                transport.receive(buffer, peer).wait()
            else:
                transport.receive(buffer, peer).wait()
                transport.send(buffer, peer)
            transport.flush()

        return _median_seconds(exchange) / 2

    latency = ping(16)
    large = ping(MIB)
    return 4 * MIB / max(large - latency, 1e-9), latency


def _memory_rate() -> float:
    """Bytes/s, read and written, of a recomputed layer norm and GELU."""
    narrow = torch.randn(ELEMENTWISE_TOKENS, MODEL.hidden)
    wide = torch.randn(ELEMENTWISE_TOKENS, MODEL.ffn)
    weight, bias = torch.ones(MODEL.hidden), torch.zeros(MODEL.hidden)

    def recompute() -> None:
        F.layer_norm(narrow, [MODEL.hidden], weight, bias)
        F.gelu(wide)

    return 2 * (narrow.nbytes + wide.nbytes) / _median_seconds(recompute)


def _kernel_code_bytes() -> int:
    """Private bytes that a GELU keeps for a new shape: the machine code of its kernel."""
    devices.strict_allocator()
    grown = []
    for length in CODE_LENGTHS:
        wide = torch.randn(length, MODEL.ffn)
        for operator in (partial(F.gelu, wide), partial(torch.ops.aten.gelu_backward, wide, wide)):
            before = devices.private_bytes()
            out = operator()
            grown.append(devices.private_bytes() - before - out.nbytes)
            del out
    devices.relaxed_allocator()
    return max(0, int(statistics.median(grown)))


def _collective_rate() -> float:
    """Bus bytes/s of an all_gather: the bytes that each rank receives, over the time."""
    ranks = dist.get_world_size()
    shard = torch.zeros(4 * MIB // ranks)
    shards = [torch.empty_like(shard) for _ in range(ranks)]
    return (ranks - 1) * shard.nbytes / _median_seconds(lambda: dist.all_gather(shards, shard))


def _mean_over_ranks(numbers: list[float]) -> list[float]:
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total)
    means: list[float] = (total / dist.get_world_size()).tolist()
    return means


def measure(name: str) -> Hardware:
    """Measure on every rank at once. Every rank gets the same profile, the mean over ranks."""
    ranks = dist.get_world_size()
    code_bytes = _kernel_code_bytes()
    rates = _every_rate()
    d2h, h2d, p2p, latency, collective, memory = _mean_over_ranks(
        [*_copy_rates(), *_message_cost(), _collective_rate(), _memory_rate()]
    )
    dist.barrier()
    (peak,) = _mean_over_ranks([best_matmul(1, "cpu", "float32")])
    share = psutil.virtual_memory().total // ranks
    where = (
        f"{ranks} ranks at once, one thread each, on {cpu_model()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    )
    base = load_hardware(BASE)
    measured = {field: f"{how}, {where}" for field, how in SOURCES.items()}
    return replace(
        base,
        name=name,
        source=f"measured with gpt-tiny, float32, {where} (sppo-bench profile)",
        sources={**base.sources, **measured},
        rates=tuple(rates),
        peak_flops_per_second=peak,
        memory_bytes_per_second=memory,
        device_memory_bytes=share,
        kernel_code_bytes=code_bytes,
        host_memory_bytes_per_rank=share,
        ranks_per_node=ranks,
        d2h_bytes_per_second=d2h,
        h2d_bytes_per_second=h2d,
        p2p_bytes_per_second=p2p,
        p2p_latency_seconds=latency,
        collective_bytes_per_second=collective,
    )


def main() -> None:
    """Arguments: the profile's name, and the file that rank 0 writes."""
    end_with_parent(signal.SIGKILL)
    name, path = sys.argv[1:3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    profile = measure(name)
    if dist.get_rank() == 0:
        Path(path).write_text(json.dumps(asdict(profile), indent=1) + "\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
