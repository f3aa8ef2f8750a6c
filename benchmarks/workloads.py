"""The workloads by name. The hardware is part of the name, because times depend on it."""

from __future__ import annotations

from dataclasses import replace

from sppo.config.models import MODELS, Model, gpt
from sppo.config.sizes import GIB, MIB, length_name, parse_bytes, parse_tokens
from sppo.config.workload import Cluster, Workload

DEVICE_MEMORY = 136 * MIB
"""Bytes of one rank's device under tiny-cpu.

The rule: the least at which Megatron-Core in SPPO's layout with full recompute still runs
(`sppo-bench limit tiny-cpu`: 132 MiB, results/published/limits/), up to a multiple of 8 MiB, for
the allocators of further machines.
"""

HOST_MEMORY_CPU = 2 * GIB
GPU_MEMORY = round((79.15 - 2.5) * GIB)
"""Bytes an 80 GB card gives to one process (79.15 GiB), less 2.5 GiB for context and libraries."""

HOST_MEMORY_GPU = 2 * 10**12 // 8
"""Bytes of host memory for one rank of an eight-GPU node with 2 TB."""

_MINI = gpt("gpt-mini", layers=2, hidden=64, heads=4, vocabulary=256)


def _two_cores(
    name: str, model: Model, sequence_tokens: int, device_memory_bytes: int | None
) -> Workload:
    return Workload(
        name=name,
        model=model,
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2),
        sequence_tokens=sequence_tokens,
        device_memory_bytes=device_memory_bytes,
        host_memory_bytes=HOST_MEMORY_CPU,
    )


_FOUR_RANKS = replace(
    _two_cores("tiny-cpu-4rank", MODELS["gpt-tiny"], 4096, None),
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=4),
    sequence_parallel=2,
    pipeline_parallel=2,
)
"""PP 2 x SP 2, for equal work and exact counters: four ranks share two cores."""


def _gpus(model: str, length: str, gpus: int, hardware: str) -> Workload:
    """`length` as in the name ("1m", "1280k"); nodes of up to eight GPUs; `hardware`: a profile."""
    card = hardware.split("-")[0]
    node = min(gpus, 8)
    return Workload(
        name=f"{model}-{length}-{gpus}x{card}",
        model=MODELS[model],
        cluster=Cluster(hardware=hardware, device="cuda", nodes=gpus // node, ranks_per_node=node),
        sequence_tokens=parse_tokens(length),
        dtype="bfloat16",
        device_memory_bytes=GPU_MEMORY,
        host_memory_bytes=HOST_MEMORY_GPU,
    )


PAPER_POINTS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("gpt-7b", 32, ("512k", "640k", "768k", "896k", "1m")),
    ("gpt-13b", 64, ("512k", "640k", "768k", "1m", "1280k")),
    ("gpt-65b", 128, ("512k", "600k", "640k", "768k", "1m")),
)
"""The 15 points of the paper's fig. 10: model, GPUs, lengths of a sequence."""

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        _two_cores("tiny-cpu", MODELS["gpt-tiny"], 4096, DEVICE_MEMORY),
        _two_cores("tiny-llama-cpu", MODELS["llama-tiny"], 4096, None),
        _two_cores("mini-cpu", _MINI, 512, 152 * MIB),
        _FOUR_RANKS,
        _gpus("gpt-1b", "16k", 1, "h100-80g"),
        _gpus("gpt-1b", "32k", 1, "h100-80g"),
        _gpus("gpt-1b", "96k", 1, "h100-80g"),
        _gpus("gpt-7b", "128k", 8, "h100-80g"),
        *(_gpus("gpt-7b", length, 8, "a100-80g") for length in ("128k", "256k", "512k")),
        *(
            _gpus(model, length, gpus, "a100-80g")
            for model, gpus, lengths in PAPER_POINTS
            for length in lengths
        ),
        _gpus("gpt-7b", "2m", 64, "a100-80g"),
        _gpus("gpt-7b", "4m", 128, "a100-80g"),
    )
}

DEFAULT = "tiny-cpu"


def find(name: str) -> Workload:
    """The workload of that name. Raises ValueError listing the known names."""
    if name not in WORKLOADS:
        raise ValueError(
            f"unknown workload {name!r}; known: {', '.join(WORKLOADS)}; or name a workload file "
            "that ends in .toml"
        )
    return WORKLOADS[name]


def of_flags(
    *, model: str, seq: str, gpus: int, hardware: str, device_memory: str | None = None
) -> Workload:
    """A workload outside `WORKLOADS`, on `gpus` ranks, with a name of the same form.

    Nodes, device and host memory are those of the profile; a CPU has one node and no device limit.
    Raises ValueError with the cure, NotSupported with the known profiles.
    """
    from sppo.config.hardware import committed_profiles, load_hardware

    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    tokens = parse_tokens(seq)
    if gpus < 1:
        raise ValueError(f"{gpus} GPUs: a workload needs at least 1")
    profile = load_hardware(hardware)
    on_cpu = profile.device == "cpu"
    node = gpus if on_cpu else min(gpus, profile.ranks_per_node)
    if gpus % node:
        whole = gpus // node * node
        raise ValueError(f"{gpus} GPUs are no whole nodes of {node}: take {whole}, or fewer")
    if device_memory is not None:
        limit_bytes = parse_bytes(device_memory)
    else:
        limit_bytes = None if on_cpu else profile.usable_device_bytes
    card = profile.name.split("-")[0] if hardware in committed_profiles() else profile.name
    length = length_name(tokens).replace(",", "").lower()
    return Workload(
        name=f"{model}-{length}-{gpus}x{card}",
        model=MODELS[model],
        cluster=Cluster(
            hardware=hardware,
            device="cpu" if on_cpu else "cuda",
            nodes=gpus // node,
            ranks_per_node=node,
        ),
        sequence_tokens=tokens,
        dtype="float32" if on_cpu else "bfloat16",
        device_memory_bytes=limit_bytes,
        host_memory_bytes=HOST_MEMORY_CPU if on_cpu else profile.host_memory_bytes_per_rank,
    )
