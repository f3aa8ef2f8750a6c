"""The flags of `emulate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class Emulate:
    """Run one whole step of a system at full size on tensors without storage, and count it.

    The system's own code, one process per role (a stage, or every rank), on a machine without GPUs
    and without the memory: peak bytes, FLOPs, messages, and whether it fits. Exits 0 for a verdict
    (ok, oom, unavailable), 1 if a role failed or a search found nothing that fits.

    Example: sppo-bench emulate megatron --model gpt-7b --seq 1M --gpus 32 --tp 8 --pp 4
    --recompute full --sequences-per-step 8

    Example: sppo-bench emulate sppo --model gpt-7b --seq 4M --gpus 128

    Example: sppo-bench emulate deepspeed --model gpt-7b --seq 1M --gpus 32 --zero 3 --recompute
    full
    """

    system: Annotated[Positional[str], arg(metavar="SYSTEM")]
    """megatron, deepspeed or sppo."""
    workload: Annotated[Positional[str | None], arg(metavar="WORKLOAD")] = None
    """A name of `sppo-bench list`, or instead of it --model, --seq and --gpus."""
    model: Annotated[str | None, arg(metavar="NAME")] = None
    """A model: gpt-7b, gpt-13b, gpt-65b, llama-8b, ..."""
    seq: Annotated[str | None, arg(metavar="TOKENS")] = None
    """Tokens of a sequence: 4096, 128K or 4M (1K = 1,024)."""
    gpus: Annotated[int | None, arg(metavar="COUNT")] = None
    """Ranks in all; nodes of eight."""
    hardware: Annotated[str | None, arg(metavar="PROFILE")] = None
    """A hardware profile, whose memory and nodes count; a100-80g with --model."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given (of a
    profile: its device memory less its reserve)."""
    sequences_per_step: Annotated[int | None, arg(metavar="COUNT")] = None
    """Sequences of an optimizer step; the workload's own, mostly 1, if not given."""
    tensor_parallel: Annotated[int | None, arg(aliases=["--tp"], metavar="COUNT")] = None
    """megatron: tensor-parallel ranks, 1 if not given."""
    pipeline_parallel: Annotated[int | None, arg(aliases=["--pp"], metavar="COUNT")] = None
    """megatron: pipeline stages, 1 if not given; sppo: the solver's choice if not given."""
    context_parallel: Annotated[int | None, arg(aliases=["--cp"], metavar="COUNT")] = None
    """megatron: context-parallel ranks, 1 if not given."""
    sequence_parallel: Annotated[int | None, arg(aliases=["--sp", "--ulysses"], metavar="S")] = None
    """deepspeed: the Ulysses degree, all ranks if not given; sppo: ranks inside a stage."""
    data_parallel: Annotated[int | None, arg(aliases=["--dp"], metavar="D")] = None
    """sppo: pipelines beside each other; the solver's choice if not given."""
    msp: bool = False
    """sppo: let waiting ranks help, even if it does not pay; the solver weighs it if not given."""
    no_sequence_parallel: bool = False
    """megatron: tokens of norms not sharded over the tensor-parallel ranks (else they are)."""
    recompute: Annotated[str | None, arg(metavar="WHAT")] = None
    """megatron: none, full, layers of each stage (a number), or modules (mlp, core_attn or both by
    comma); deepspeed: none, full, or the number of checkpointed blocks. none if not given."""
    zero: Annotated[int | None, arg(metavar="STAGE")] = None
    """deepspeed: ZeRO stage, 1 if not given; megatron: 1 is its distributed optimizer, which a
    layout with replicas has if not given."""
    tiled_mlp: Annotated[int | None, arg(metavar="TILES")] = None
    """deepspeed: tiles of an MLP."""
    tiled_loss: bool = False
    """deepspeed: the loss tile by tile."""
    subsequences: Annotated[int | None, arg(aliases=["--n"], metavar="N")] = None
    """sppo: pieces into which a sequence is cut; the solver's choice if not given."""
    virtual_stages: Annotated[int | None, arg(metavar="V")] = None
    """sppo: parts of the model on every stage; the solver's choice if not given."""
    policy: Annotated[str | None, arg(metavar="NAME")] = None
    """sppo: what becomes of kept tensors; auto if not given."""
    ranks: Annotated[str, arg(metavar="WHICH")] = "roles"
    """roles (one rank of each role), all, or ranks by comma: 0,8,31."""
    longest: bool = False
    """The longest sequence that fits, searched by emulating one length after another."""
    tuned: bool = False
    """megatron and deepspeed: search the system's own grid, layout by layout, for the fastest
    simulated step that fits, or with --longest for the longest sequence."""
    at_most: Annotated[str | None, arg(metavar="TOKENS")] = None
    """--longest: ask for no more than this; eight times --seq if not given."""
    again: bool = False
    """Run every role, even if the same code has emulated the same before (results/cache/)."""
    time_limit: float = 900.0
    """Seconds of one rank."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    json: bool = False
    """The verdict as JSON on standard output."""
