"""The flags of every verb of `sppo-bench`: one frozen dataclass a verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.workloads import DEFAULT


@dataclass(frozen=True, kw_only=True)
class List:
    """Name the workloads and the rows.

    Example: sppo-bench list
    """

    json: bool = False
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A workload by name or by the four model flags."""

    workload: Annotated[Positional[str | None], arg(metavar="WORKLOAD")] = None
    """A name of `sppo-bench list`, or instead of it --model, --seq, --gpus and --hardware;
    tiny-cpu if neither is given."""
    model: Annotated[str | None, arg(metavar="NAME")] = None
    """A model: gpt-7b, gpt-13b, gpt-65b, llama-8b, ..."""
    seq: Annotated[str | None, arg(metavar="TOKENS")] = None
    """Tokens of a sequence: 4096, 128K or 4M (1K = 1,024)."""
    gpus: Annotated[int | None, arg(metavar="COUNT")] = None
    """Ranks in all; nodes of eight."""
    hardware: Annotated[str | None, arg(metavar="PROFILE")] = None
    """A hardware profile: cpu-2core, a100-80g, ..."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given."""


@dataclass(frozen=True, kw_only=True)
class Degrees:
    """What the user fixes of a layout."""

    subsequences: Annotated[int | None, arg(aliases=["--n"], metavar="N")] = None
    """Pieces into which a sequence is cut; the solver's choice if not given."""
    virtual_stages: Annotated[int | None, arg(metavar="V")] = None
    """Parts of the model on every stage; the solver's choice if not given."""
    pipeline_parallel: Annotated[int | None, arg(aliases=["--pp"], metavar="P")] = None
    """Pipeline stages; the solver's choice if not given."""
    sequence_parallel: Annotated[int | None, arg(aliases=["--sp"], metavar="S")] = None
    """Ranks inside a stage; the solver's choice if not given."""
    data_parallel: Annotated[int | None, arg(aliases=["--dp"], metavar="D")] = None
    """Pipelines beside each other, each with sequences of its own; the solver's choice if not
    given."""


@dataclass(frozen=True, kw_only=True)
class Selection(Degrees, Described):
    """What is planned: a workload by name or by the four model flags, and what the user fixes."""

    sequences_per_step: Annotated[int | None, arg(metavar="COUNT")] = None
    """Sequences of an optimizer step; the workload's own if not given."""
    policy: Annotated[str | None, arg(metavar="NAME")] = None
    """What becomes of kept tensors: auto, no-offload, full-offload, full-recompute, lean, paper."""
    solver: Annotated[str | None, arg(metavar="NAME")] = None
    """Who chooses: paper, heuristic or exact."""
    cut: Annotated[str | None, arg(metavar="NAME")] = None
    """Pieces of equal flops, equal length (equal) or equal time; auto is flops in a pipeline."""
    msp: bool = False
    """Let ranks that wait at the pipeline's ends help their neighbours, even if it does not pay."""
    no_msp: bool = False
    """Never do that; without either flag the solver weighs it."""
    json: bool = False
    """For programs, with every number."""


@dataclass(frozen=True, kw_only=True)
class Plan(Selection):
    """Show what SPPO's solver decides for a workload; needs no GPU. Exits 1 if nothing fits.

    Example: sppo-bench plan tiny-cpu --device-memory 120MiB

    Example: sppo-bench plan --model gpt-7b --seq 4M --gpus 128 --hardware a100-80g
    """


@dataclass(frozen=True, kw_only=True)
class Simulate(Selection):
    """Simulate the planned step: makespan, bubbles, peaks, transfers. Exits 1 if nothing fits.

    Example: sppo-bench simulate tiny-cpu

    Example: sppo-bench simulate --pp 4 --n 8 --unit-costs
    """

    unit_costs: bool = False
    """No model: --pp stages, --n subsequences, a forward costs one unit and a backward two."""


@dataclass(frozen=True, kw_only=True)
class Timeline(Selection):
    """Write the simulated step, and a measured one beside it, as Chrome traces and as a figure.

    Example: sppo-bench timeline tiny-cpu

    Example: sppo-bench timeline --run results/runs/20261124-072759-tiny-cpu
    """

    run: Annotated[Path | None, arg(metavar="DIR")] = None
    """A folder of `sppo-bench run`: draw the plan that ran there, simulated and measured."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder to write into; DIR/timeline, or results/runs/timeline-WORKLOAD, if not given."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Launch every row of a workload, compare them, and write records, table and figure.

    Example: sppo-bench run tiny-cpu --systems megatron,sppo --device-memory 160MiB
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`."""
    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, by comma or space: deepspeed, megatron (both its rows), megatron-same-layout,
    megatron-tuned, sppo; all four if not given."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given."""
    text: Annotated[str | None, arg(metavar="PATH")] = None
    """File or folder to train on (text, .npy, or raw FILE:dtype); else Python's own sources."""
    launches: int = 2
    """Launches of each row, interleaved with the others'."""
    measured_steps: int = 5
    """Timed steps of a launch."""
    warmup_steps: int = 1
    """Untimed steps after the throw-away and the accounted one."""
    time_limit: float = 120.0
    """Seconds of one launch; after that it is stopped and recorded as timeout."""
    tune: bool = False
    """Measure each library's whole grid (at most 3 timed steps a point), its fastest points twice
    more, and save it to results/published/tuning/, where plain runs find the winner."""
    dry_run: bool = False
    """Print the exact torchrun lines; write nothing."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    json: bool = False
    """The table as JSON on standard output."""
    no_wandb: bool = False
    """Write no wandb runs (else one per launch, offline unless WANDB_MODE says otherwise)."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Print the table of a run again, from its records alone.

    Example: sppo-bench table results/runs/20261124-072759-tiny-cpu
    """

    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """A folder that `sppo-bench run` has made."""
    json: bool = False
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Find the device memory of a workload by its rule, with enforced launches, and save it.

    The rule: the least MiB at which Megatron-Core in SPPO's layout with full recompute still runs.

    Example: sppo-bench limit tiny-cpu
    """

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""
    json: bool = False
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measure this machine's rates and links as a hardware profile, which the planner then knows.

    Example: sppo-bench profile my-machine --ranks 2
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """What --hardware will call it: small letters, digits and dashes."""
    ranks: int = 2
    """Processes that measure at once; an even number, as messages go to a neighbour."""
    output: Annotated[Path | None, arg(metavar="FILE")] = None
    """File to write, also over an old one; a new file among the profiles if not given."""
    json: bool = False
    """The profile as JSON on standard output."""


@dataclass(frozen=True, kw_only=True)
class Env:
    """Describe this machine as records do: versions, processor, commit.

    Example: sppo-bench env --json
    """

    json: bool = False
    """For programs."""
