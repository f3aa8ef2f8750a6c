"""Flags that several commands share; those of one command lie beside it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benchmarks.workloads import DEFAULT


@dataclass(frozen=True, kw_only=True)
class Json:
    """Output for programs instead of people."""

    json: bool = False
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a command's run folder is made."""

    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder in which the run's folder is made; results/runs/ if not given."""


@dataclass(frozen=True, kw_only=True)
class Results(RunFolder):
    """Where a study's run folder is made, and its results for programs."""

    json: bool = False
    """The results as JSON on standard output."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A workload by name."""

    workload: Annotated[Positional[str], arg(metavar="WORKLOAD")] = DEFAULT
    """A name of `sppo-bench list`."""


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The device limit of every rank."""

    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given."""


@dataclass(frozen=True, kw_only=True)
class Model:
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


@dataclass(frozen=True, kw_only=True)
class Described(DeviceMemory, Model):
    """A workload by name or by the four model flags, and its device limit."""


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
class Launches:
    """How rows are launched."""

    launches: int = 2
    """Launches of each row, interleaved with the others'."""
    measured_steps: int = 5
    """Timed steps of a launch."""
    warmup_steps: int = 1
    """Untimed steps after the throw-away and the accounted one."""
    time_limit: float = 300.0
    """Seconds of one launch; after that it is stopped and recorded as timeout."""


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Whether a study's results are committed."""

    publish: bool = False
    """Copy table, figure and JSON to results/published/."""


@dataclass(frozen=True, kw_only=True)
class Measuring(Results, Publish, Launches):
    """How the rows of a study are launched and where its results go."""
