"""Measure a hardware profile: the engine's own stage on every rank at once, copies and messages.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \
        -m benchmarks.worker.measure_hardware cpu-2core sppo/config/hardware_profiles/cpu-2core.json

All ranks measure at the same time, because they share memory and links when they train. Rates are
those of the model they were measured with (`source` names it): a small hidden size is slower.
"""

from __future__ import annotations

import json
import os
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
from benchmarks.worker.matmul_peak import best_matmul
from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads
from sppo.comm.messages import GroupTransport
from sppo.config.hardware import Hardware, Rates, load_hardware
from sppo.config.models import MODELS
from sppo.config.sizes import KIB, MIB
from sppo.config.workload import Cluster, Workload
from sppo.engine.context import EngineContext
from sppo.engine.part import Part
from sppo.engine.stage import Stage
from sppo.model.weights import StageWeights
from sppo.offload.host_memory import HostArena
from sppo.plan.blocks import block_of
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

_aten = torch.ops.aten

LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
PREFIX_TOKENS = 3072
REPEATS = 15
CODE_LENGTHS = (520, 584, 648, 712)
"""Tokens that no other measurement uses."""

PROCESS_BYTES = 512 * KIB
LONGEST_UNIT_TOKENS = 1024
"""Tokens of the unit whose size the element-wise kernels are measured at."""


def _median_seconds(action: Callable[[], None]) -> float:
    action()
    times = []
    for _ in range(REPEATS):
        dist.barrier()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _part(length: int, prefix: int, ranks: int) -> Part:
    """The first stage of gpt-tiny with one subsequence of `length` tokens behind `prefix`."""
    workload = Workload(
        name="profile",
        model=MODELS["gpt-tiny"],
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=ranks),
        sequence_tokens=length + prefix,
    )
    options = SolverOptions(
        subsequences=2 if prefix else 1, virtual_stages=1, policy="no-offload", cut="equal"
    )
    plan: Plan = solve(workload, load_hardware("cpu-2core"), options)
    lengths = (prefix, length) if prefix else (length,)
    plan = replace(plan, layout=replace(plan.layout, lengths_tokens=lengths), prediction=None)
    device = torch.device("cpu")
    weights = initial_weights(workload.model, 1, torch.float32)
    mine = StageWeights(plan, 0, weights, device, torch.float32)
    context = EngineContext(device=device, dtype=torch.float32)
    return Stage(plan, mine, context, connect_threads(plan)[0]).parts[0]


class _Sampler:
    """Forward and backward of a part, repeated; seconds per layer."""

    def __init__(self, length: int, prefix: int, ranks: int) -> None:
        self.part = _part(length, prefix, ranks)
        self.index = 1 if prefix else 0
        self.tokens = torch.randint(0, 256, (length,))
        self.gradient = torch.randn(length, self.part.plan.model.hidden)
        self.seconds: list[tuple[float, float]] = []

    def sample(self) -> None:
        dist.barrier()
        start = time.perf_counter()
        self.part.forward(0, self.index, self.tokens, None, 1.0)
        middle = time.perf_counter()
        self.part.backward(0, self.index, self.gradient, self.tokens)
        layers = len(self.part.model.layers)
        self.seconds.append(((middle - start) / layers, (time.perf_counter() - middle) / layers))

    def medians(self) -> tuple[float, float]:
        """Without the first sample, which warms up."""
        forwards, backwards = zip(*self.seconds[1:], strict=True)
        return statistics.median(forwards), statistics.median(backwards)


def _every_rate(ranks: int) -> list[Rates]:
    """Rates by length. All lengths take turns, so that a slow minute slows all of them alike."""
    alone = {length: _Sampler(length, 0, ranks) for length in LENGTHS}
    behind = {length: _Sampler(length, PREFIX_TOKENS, ranks) for length in LENGTHS}
    for _ in range(REPEATS + 1):
        for length in LENGTHS:
            alone[length].sample()
            behind[length].sample()
    return [_rates(length, alone[length].medians(), behind[length].medians()) for length in LENGTHS]


def _rates(length: int, alone: tuple[float, float], behind: tuple[float, float]) -> Rates:
    """From (forward, backward) seconds without and with PREFIX_TOKENS earlier tokens."""
    model = MODELS["gpt-tiny"]
    block = block_of(model)
    dense = block.dense_flops_per_token * length
    own = block.mixer_flops(0, length)
    prefix = block.mixer_flops_per_pair * length * PREFIX_TOKENS
    rates = []
    for factor, short, long in zip((1, 2), alone, behind, strict=True):
        attention_rate = factor * prefix / max(long - short, 1e-6)
        dense_seconds = max(short - factor * own / attention_rate, short / 10)
        rates.append((factor * dense / dense_seconds, attention_rate))
    (dense_forward, attention_forward), (dense_backward, attention_backward) = rates
    return Rates(
        tokens=length,
        dense_forward=dense_forward,
        dense_backward=dense_backward,
        attention_forward=attention_forward,
        attention_backward=attention_backward,
    )


def _copy_rates() -> tuple[float, float]:
    """Bytes/s into and out of the host tier, in tensors of a unit's size."""
    arena = HostArena(16 * MIB, torch.device("cpu"))
    data = torch.ones(1 * MIB, dtype=torch.uint8)

    def out() -> None:
        arena.used_bytes = 0
        for _ in range(16):
            arena.store(data)

    def back() -> None:
        for index in reversed(range(16)):
            arena.used_bytes = (index + 1) * MIB
            slot = replace(arena_slot, offset_bytes=index * MIB)
            arena.load(slot, torch.empty(MIB, dtype=torch.uint8))

    arena_slot = arena.store(data)
    return 16 * MIB / _median_seconds(out), 16 * MIB / _median_seconds(back)


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
    """Bytes/s, read and written, of what a recomputation does: a layer norm and a GELU."""
    model = MODELS["gpt-tiny"]
    narrow = torch.randn(LONGEST_UNIT_TOKENS, model.hidden)
    wide = torch.randn(LONGEST_UNIT_TOKENS, model.ffn)
    weight, bias = torch.ones(model.hidden), torch.zeros(model.hidden)

    def make() -> None:
        F.layer_norm(narrow, [model.hidden], weight, bias)
        F.gelu(wide)

    return 2 * (narrow.nbytes + wide.nbytes) / _median_seconds(make)


def _kernel_code_bytes() -> int:
    """What a GELU's kernel keeps for a shape that it has not met: its machine code, if compiled."""
    devices.strict_allocator()
    grown = []
    for length in CODE_LENGTHS:
        wide = torch.randn(length, MODELS["gpt-tiny"].ffn)
        for operator in (partial(F.gelu, wide), partial(_aten.gelu_backward, wide, wide)):
            before = devices.private_bytes()
            out = operator()
            grown.append(devices.private_bytes() - before - out.nbytes)
            del out
    devices.relaxed_allocator()
    return max(0, int(statistics.median(grown)))


def _collective_rate() -> float:
    """Bus bytes/s of an all-gather: what each rank receives from the others, over its time."""
    ranks = dist.get_world_size()
    own = torch.zeros(4 * MIB // ranks)
    parts = [torch.empty_like(own) for _ in range(ranks)]
    return (ranks - 1) * own.nbytes / _median_seconds(lambda: dist.all_gather(parts, own))


def _mean_over_ranks(numbers: list[float]) -> list[float]:
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total)
    means: list[float] = (total / dist.get_world_size()).tolist()
    return means


def measure(name: str) -> Hardware:
    """Measure on every rank at once; the mean over ranks, the same on all."""
    ranks = dist.get_world_size()
    code = _kernel_code_bytes()
    rates = []
    for measured in _every_rate(ranks):
        own = asdict(measured)
        length = own.pop("tokens")
        means = _mean_over_ranks(list(own.values()))
        rates.append(Rates(tokens=length, **dict(zip(own, means, strict=True))))
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
    return Hardware(
        name=name,
        kind="measured",
        source=f"measured with gpt-tiny, float32, {where} "
        "(python -m benchmarks.worker.measure_hardware)",
        sources=_sources(where),
        device="cpu",
        dtype="float32",
        rates=tuple(rates),
        layer_overhead_seconds=0.0,
        peak_flops_per_second=peak,
        memory_bytes_per_second=memory,
        device_memory_bytes=share,
        reserve_bytes=0,
        context_bytes=0,
        kernel_code_bytes=code,
        workspace_bytes=0,
        communicator_bytes=0,
        connection_bytes=0,
        process_bytes=PROCESS_BYTES,
        host_memory_bytes_per_rank=share,
        ranks_per_node=ranks,
        d2h_bytes_per_second=d2h,
        h2d_bytes_per_second=h2d,
        p2p_bytes_per_second=p2p,
        p2p_latency_seconds=latency,
        collective_bytes_per_second=collective,
        internode_bytes_per_second=None,
        internode_latency_seconds=None,
        overlapped_copies=False,
    )


def _sources(where: str) -> dict[str, str]:
    """How each number that is no rate came about, by field of the profile."""
    share = "the machine's memory divided by its ranks; one memory is both tiers"
    return {
        "layer_overhead_seconds": "none: the rates of short subsequences contain it",
        "peak_flops_per_second": f"best of repeated 1024 x 1024 products, float32, {where}",
        "memory_bytes_per_second": f"layer norm and GELU, float32, {where}",
        "device_memory_bytes": share,
        "reserve_bytes": "none: the device limit of a workload is set above what libraries hold",
        "context_bytes": "none: a CPU has no driver's context",
        "kernel_code_bytes": f"private memory that a GELU of a new shape keeps, {where}",
        "workspace_bytes": "none: the matrix library has its own before the limit is set",
        "communicator_bytes": "none: gloo sends from the tensors",
        "connection_bytes": "none: gloo sends from the tensors",
        "process_bytes": "assumption: 512 KiB that the allocator rounds up and threads keep; "
        "100 to 270 KiB were seen in whole steps",
        "host_memory_bytes_per_rank": share,
        "ranks_per_node": "the ranks that measured",
        "d2h_bytes_per_second": "copies of 1 MiB into the host tier's arena",
        "h2d_bytes_per_second": "copies of 1 MiB out of the host tier's arena",
        "p2p_bytes_per_second": "half a ping-pong of 4 MiB over gloo, less its latency",
        "p2p_latency_seconds": "half a ping-pong of 64 bytes over gloo",
        "collective_bytes_per_second": f"all-gather of 16 MiB over gloo, {where}",
    }


def main() -> None:
    """Arguments: the profile's name, and the file that rank 0 writes."""
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
