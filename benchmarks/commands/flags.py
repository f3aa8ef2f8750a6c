"""Flags that several commands share. The flags of one command are in its module. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from benchmarks.workloads import DEFAULT


@dataclass(frozen=True, kw_only=True)
class Json:
    """Output for programs instead of people."""

    json: bool = False
    """Print JSON for programs, with every number."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The place of a command's run folder."""

    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    resume: Annotated[Path | None, arg(metavar="DIR")] = None
    """Go on with the stopped command of this folder; nothing is measured twice (docs/resume.md)."""


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A command whose results go to wandb."""

    no_wandb: bool = False
    """Write no wandb runs (docs/wandb.md). By default they are written, offline unless WANDB_MODE
    is set."""


@dataclass(frozen=True, kw_only=True)
class Results(Json, Tracked, RunFolder):
    """The results of a study: where they go, and for programs."""

    publish: bool = False
    """Copy table, figure and JSON to results/published/."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A workload by name."""

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`, or a workload file (docs/workloads.md)."""


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The device limit of every rank."""

    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given."""


@dataclass(frozen=True, kw_only=True)
class Described(DeviceMemory):
    """A workload by name or by the four model flags, and its device limit."""

    workload: Annotated[Positional[str | None], arg(metavar="WORKLOAD")] = None
    """A name of `sppo-bench list`, or a workload file; or instead --model, --seq, --gpus and
    --hardware; tiny-cpu if none is given."""
    model: Annotated[str | None, arg(metavar="NAME")] = None
    """A model: gpt-7b, gpt-13b, gpt-65b, llama-8b, ..."""
    seq: Annotated[str | None, arg(metavar="TOKENS")] = None
    """Tokens of a sequence: 4096, 128K or 4M (1K = 1,024)."""
    gpus: Annotated[int | None, arg(metavar="COUNT")] = None
    """All ranks; a node has eight."""
    hardware: Annotated[str | None, arg(metavar="PROFILE")] = None
    """A hardware profile: cpu-2core, a100-80g, ..."""


@dataclass(frozen=True, kw_only=True)
class Launched(Described):
    """A workload to launch, by name, by a file or by the four model flags."""

    workload: Annotated[Positional[str | None], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`, or a workload file; or instead --model, --seq, --gpus and
    --hardware (docs/workloads.md)."""
    sequences_per_step: Annotated[int | None, arg(metavar="COUNT")] = None
    """Sequences of an optimizer step; the workload's own if not given."""


@dataclass(frozen=True, kw_only=True)
class Degrees:
    """The layout, where the user fixes it."""

    subsequences: Annotated[int | None, arg(aliases=["--n"], metavar="N")] = None
    """Subsequences of a sequence (N); the solver's choice if not given."""
    virtual_stages: Annotated[int | None, arg(metavar="V")] = None
    """Model chunks on every stage (V); the solver's choice if not given."""
    pipeline_parallel: Annotated[int | None, arg(aliases=["--pp"], metavar="P")] = None
    """Pipeline stages (PP); the solver's choice if not given."""
    sequence_parallel: Annotated[int | None, arg(aliases=["--sp"], metavar="S")] = None
    """Ranks of a stage (SP), which share each subsequence; the solver's choice if not given."""
    ulysses_parallel: Annotated[int | None, arg(metavar="U")] = None
    """Of the SP ranks of a stage, those with the same weights, which exchange tokens for heads by
    all-to-all; the solver's choice if not given."""
    context_parallel: Annotated[int | None, arg(aliases=["--cp"], metavar="C")] = None
    """Of the SP ranks of a stage, those that also have the same heads, and gather K and V; the
    solver's choice if not given: 1, or as few as leave heads for all other ranks."""
    data_parallel: Annotated[int | None, arg(aliases=["--dp"], metavar="D")] = None
    """Replicas of the pipeline (DP), each with its own sequences; the solver's choice if not
    given."""


@dataclass(frozen=True, kw_only=True)
class Selection(Json, Degrees, Described):
    """A workload to plan, by name or by the four model flags, and the options of its plan."""

    sequences_per_step: Annotated[int | None, arg(metavar="COUNT")] = None
    """Sequences of an optimizer step; the workload's own if not given."""
    policy: Annotated[str | None, arg(metavar="NAME")] = None
    """The policy for saved tensors: auto (if not given), no-offload, full-offload, full-recompute,
    lean or paper (docs/plan.md)."""
    solver: Annotated[str | None, arg(metavar="NAME")] = None
    """The planner's method: heuristic (if not given), exact or paper."""
    cut: Annotated[str | None, arg(metavar="NAME")] = None
    """Subsequences of equal FLOPs (flops), length (equal) or time (time). auto: flops in a
    pipeline, equal on a single stage."""
    stage_sharding: Annotated[str | None, arg(metavar="NAME")] = None
    """How ranks share a stage. tensor: they divide weights alone. ulysses: they exchange tokens for
    heads, with TP or without. auto, if not given: the faster."""
    weights: Annotated[str | None, arg(metavar="NAME")] = None
    """Where ranks have the same weights. whole: each keeps all of them. sharded: each keeps a
    piece of every block, and gathers a block when it is used. auto, if not given: the faster."""
    exchange_pieces: Annotated[int | None, arg(metavar="G")] = None
    """Pieces of a subsequence in the all-to-alls around attention: one piece is exchanged while
    attention computes another. If not given: 1 or 2, the faster."""
    msp: bool = False
    """Always use MSP: ranks that wait at the pipeline's ends compute slices of their neighbours."""
    no_msp: bool = False
    """Never use MSP. Without either flag the solver decides."""


@dataclass(frozen=True, kw_only=True)
class SeveralNodes(RunFolder):
    """The nodes of a command that is started once on each (docs/nodes.md)."""

    nodes: Annotated[int | None, arg(metavar="COUNT")] = None
    """Nodes that share the workload's ranks, with this command on each (docs/nodes.md). Under srun
    SLURM's number, if not given."""
    node_rank: Annotated[int | None, arg(metavar="R")] = None
    """The rank of this node, from 0; SLURM's under srun. Node 0 measures, judges and records."""
    endpoint: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """An address and a free port of node 0, where the nodes meet; from SLURM's host list under
    srun."""
    node_wait: Annotated[float, arg(metavar="SECONDS")] = 300.0
    """How long the nodes wait for each other at the start."""


@dataclass(frozen=True, kw_only=True)
class Launches:
    """The launches of each row."""

    launches: int | None = None
    """Launches of each row, interleaved with those of further rows. If not given: three on GPUs;
    two on CPU ranks, and within --budget the third that a ratio needs."""
    measured_steps: int | None = None
    """Timed steps of a launch. If not given: ten where rows take turns, else five."""
    warmup_steps: int = 1
    """Untimed steps after the throw-away step and the accounted step."""
    time_limit: float | None = None
    """Seconds of one launch; a longer one is stopped and recorded as timeout. Derived from the
    plan or the work if not given."""
    budget: Annotated[float, arg(metavar="SECONDS")] = 420.0
    """Seconds of all launches of a run (in a sweep, of a value). Within them, rows whose times are
    not settled are launched further (docs/timing.md). 0: never. With --launches 1 every row has one
    launch."""
    interleave: Literal["auto", "steps", "launches"] = "auto"
    """What takes turns: single measured steps of all rows, whose processes are alive at once
    ("steps", for CPU ranks on one node), or whole launches. auto: steps where possible."""


@dataclass(frozen=True, kw_only=True)
class KernelFlags:
    """The kernels of all rows (docs/gpu.md)."""

    attention_kernel: Annotated[str, arg(metavar="NAME")] = "auto"
    """The kernel of attention of all rows: flash, cudnn, fa3, fa4 or math. auto: flash on a CPU, on
    CUDA the fastest of a short measurement."""
    force_kernel: bool = False
    """Also take kernels that never ran in this suite: fa3, fa4, those of megatron-te."""
    fuse: bool = False
    """On CUDA, compile RoPE, bias with residual, norms and loss, for all rows alike."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data that a launch trains on."""

    data: Annotated[str | None, arg(aliases=["--text"], metavar="PATH")] = None
    """File or folder to train on: text, JSONL, .npy, Megatron .bin/.idx, nanoGPT or llm.c .bin, raw
    ids as PATH:uint16; else Python's own sources (docs/data.md)."""
    data_field: Annotated[str | None, arg(metavar="NAME")] = None
    """The field of JSONL records that has the text; "text" if not given."""
    tokenizer: Annotated[str | None, arg(metavar="FILE")] = None
    """A Hugging Face tokenizer.json for text; bytes are the tokens if not given."""


@dataclass(frozen=True, kw_only=True)
class Measuring(Results, SeveralNodes, Data, Launches):
    """The launches of a study, their nodes and data, and the place of its results."""
