"""From the flags of `sppo-bench emulate` to the settings of a system. Imports no library."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from tyro.conf import arg

from baselines import registry
from baselines.megatron import te
from baselines.protocol import Planner
from benchmarks.commands.arguments import UsageError, flag, usage_errors
from benchmarks.rows.row import ROWS, slug
from sppo.config.workload import Workload

SYSTEMS = {
    "megatron": "baselines.megatron.settings",
    "megatron-ours": "baselines.megatron.ours",
    "megatron-te": "baselines.megatron.te",
    "deepspeed": "baselines.deepspeed.settings",
    "deepspeed-ours": "baselines.deepspeed.ours",
    "native": "baselines.native.settings",
    "sppo": "baselines.sppo",
}
"""By system: the module with its FLAGS and `of_flags`."""


@dataclass(frozen=True, kw_only=True)
class SystemSettings:
    """The flags that are settings of a system."""

    tensor_parallel: Annotated[int | None, arg(aliases=["--tp"], metavar="COUNT")] = None
    """megatron, native: tensor-parallel ranks, 1 if not given."""
    pipeline_parallel: Annotated[int | None, arg(aliases=["--pp"], metavar="COUNT")] = None
    """megatron: pipeline stages, 1 if not given; sppo: the solver's choice if not given."""
    context_parallel: Annotated[int | None, arg(aliases=["--cp"], metavar="COUNT")] = None
    """megatron, native: context-parallel ranks, 1 if not given; native's are a ring. sppo: ranks of
    a stage with the same heads; the solver's choice if not given."""
    virtual_pipeline: Annotated[int | None, arg(aliases=["--vp"], metavar="CHUNKS")] = None
    """megatron: model chunks a rank, for the interleaved 1F1B schedule; 1 if not given."""
    sequence_parallel: Annotated[int | None, arg(aliases=["--sp", "--ulysses"], metavar="S")] = None
    """deepspeed, native: the Ulysses degree, all ranks if not given (native: all that --tp and --cp
    leave); sppo: ranks inside a stage."""
    ulysses_parallel: Annotated[int | None, arg(metavar="U")] = None
    """sppo: of the ranks inside a stage, those with the same weights, which exchange tokens for
    heads; the solver's choice if not given."""
    data_parallel: Annotated[int | None, arg(aliases=["--dp"], metavar="D")] = None
    """sppo: replicas of the pipeline; the solver's choice if not given."""
    msp: bool = False
    """sppo: MSP, even where it is slower; the solver's choice if not given."""
    no_sequence_parallel: bool = False
    """megatron: no sequence parallelism: every tensor-parallel rank has all tokens of the norms."""
    recompute: Annotated[str | None, arg(metavar="WHAT")] = None
    """megatron: none, full, layers of each model chunk (a number), or modules by comma (mlp,
    layernorm, core_attn); megatron-ours: save-attention (the default), with :N for N layers of each
    model chunk; deepspeed: none, full, save-attention or split, with :N for the first N blocks, or
    N for full:N; deepspeed-ours: save-attention (the default) or full; native: none, full,
    save-attention or save-messages, with :N for the first N blocks. none if not given."""
    zero: Annotated[int | None, arg(metavar="STAGE")] = None
    """deepspeed: ZeRO stage, 1 if not given. megatron: 1 for its distributed optimizer, the default
    of layouts with replicas. native: 3 reshards after the forward (the default), 2 does not."""
    cp_comm_type: Annotated[str | None, arg(metavar="NAME")] = None
    """megatron-te: TransformerEngine's p2p, all_gather, a2a or a2a+p2p; not emulated."""
    offload: Annotated[str | None, arg(metavar="WHAT")] = None
    """megatron-te: layers (a number) or modules by comma that Megatron offloads; not emulated."""
    tiled_mlp: Annotated[int | None, arg(metavar="TILES")] = None
    """deepspeed: tiles of an MLP."""
    tiled_loss: bool = False
    """deepspeed: the loss tile by tile."""
    overlap_comm: bool = False
    """deepspeed: ZeRO-1 and 2 reduce gradients beside the backward, as ZeRO-3 does by default."""
    no_overlap_comm: bool = False
    """deepspeed: ZeRO-3 reduces gradients without an overlap, and saves a bucket."""
    host_hidden_states: bool = False
    """deepspeed: its CheckpointHiddenStatesOffload, with CUDA alone; deepspeed-ours has ours."""
    offload_optimizer: bool = False
    """deepspeed: the optimizer in host memory (ZeRO-Offload), with CUDA alone."""
    fpdt: bool = False
    """deepspeed: its FPDT, which needs flash-attn; unavailable here."""
    compile: bool = False
    """native: blocks compiled by torch.compile; never emulated."""
    subsequences: Annotated[int | None, arg(aliases=["--n"], metavar="N")] = None
    """sppo: subsequences of a sequence; the solver's choice if not given."""
    virtual_stages: Annotated[int | None, arg(metavar="V")] = None
    """sppo: model chunks on every stage; the solver's choice if not given."""
    policy: Annotated[str | None, arg(metavar="NAME")] = None
    """sppo: the policy for saved tensors; auto if not given."""
    stage_sharding: Annotated[str | None, arg(metavar="NAME")] = None
    """sppo: how ranks share a stage: tensor, ulysses, or auto if not given."""
    weights: Annotated[str | None, arg(metavar="NAME")] = None
    """sppo: where ranks have the same weights, each keeps whole ones or a piece of every block:
    whole, sharded, or auto if not given."""
    exchange_pieces: Annotated[int | None, arg(metavar="G")] = None
    """sppo: pieces of a subsequence in the all-to-alls around attention; 1 or 2 if not given."""

    def given(self) -> dict[str, Any]:
        """The settings that were given."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(SystemSettings))
        return {name: value for name, value in pairs if value is not None and value is not False}


def settings_of(system: str, given: Mapping[str, Any], workload: Workload) -> Any:
    """The system's settings. Raises UsageError for a flag or a value that the system lacks."""
    check_system(system, SYSTEMS)
    module: Any = importlib.import_module(SYSTEMS[system])
    unknown = [flag(name) for name in given if name not in module.FLAGS]
    if unknown:
        taken = ", ".join(flag(name) for name in module.FLAGS) or "none"
        raise UsageError(
            f"{', '.join(unknown)}: no setting of {system}, whose settings are {taken}"
        )
    with usage_errors():
        return module.of_flags(given, workload)


def check_tuned(system: str, given: Mapping[str, Any]) -> None:
    """Raise UsageError if the system has no grid to emulate, or if flags fix its settings."""
    check_system(system, (*registry.SYSTEMS, *registry.installed()))
    if isinstance(registry.load(system), Planner):
        raise UsageError(f"--tuned: {system.upper()}'s solver chooses its settings; leave it out")
    if system == te.ADAPTER.name:
        raise UsageError(f"--tuned: {te.NOT_EMULATED}")
    if given:
        names = ", ".join(flag(name) for name in given)
        raise UsageError(f"--tuned searches the settings that {names} fixes: not both")


def check_budget(seconds: float | None, *, tuned: bool) -> None:
    """Raise UsageError for a budget of no search, or of no time."""
    if seconds is None:
        return
    if not tuned:
        raise UsageError("--budget ends --tuned, which is not asked for")
    if not seconds > 0:
        raise UsageError(f"--budget {seconds:g}: give a positive number of seconds")


def system_named(name: str) -> str:
    """The system of a name that `run` knows too. Raises UsageError where the name is a row's."""
    system = slug(name)
    row = next((row for row in ROWS if system in (row.slug, slug(row.label))), None)
    if row is None or system == row.system:
        return system if system in SYSTEMS else name.strip()
    hint = (
        f"{row.system} --tuned searches its grid" if row.choosing == "tuned" else "and its degrees"
    )
    raise UsageError(f"{name!r} is a row of `run`; emulate takes its system, {row.system}; {hint}")


def check_system(system: str, known: Collection[str]) -> None:
    """Raise UsageError if the system is unknown."""
    if system not in known:
        raise UsageError(f"unknown system {system!r}; known: {', '.join(known)}")
