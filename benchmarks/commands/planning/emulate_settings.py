"""From the flags of `sppo-bench emulate` to the settings of a system. No library is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from baselines import registry
from benchmarks.commands.arguments import UsageError, flag
from benchmarks.commands.planning.flags import Emulate
from sppo.config.workload import Workload

SETTINGS = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "sequence_parallel",
    "data_parallel",
    "msp",
    "no_sequence_parallel",
    "recompute",
    "zero",
    "tiled_mlp",
    "tiled_loss",
    "subsequences",
    "virtual_stages",
    "policy",
)
"""The flags that are settings of some system."""


def settings_of(verb: Emulate, workload: Workload) -> Any:
    """The system's settings. Raises UsageError for a flag or a value that is none of its."""
    if verb.system not in _SYSTEMS:
        raise UsageError(f"unknown system {verb.system!r}; known: {', '.join(_SYSTEMS)}")
    system = _SYSTEMS[verb.system]
    flags = {name: getattr(verb, name) for name in SETTINGS}
    given = {
        name: value for name, value in flags.items() if value is not None and value is not False
    }
    unknown = [flag(name) for name in given if name not in system.takes]
    if unknown:
        taken = ", ".join(flag(name) for name in system.takes) or "none"
        raise UsageError(
            f"{', '.join(unknown)}: no setting of {verb.system}, whose settings are {taken}"
        )
    adapter = registry.load(verb.system)
    try:
        return adapter.settings_type(**system.build(given, workload))
    except ValueError as error:
        raise UsageError(error) from None


def _megatron(given: Mapping[str, Any], workload: Workload) -> dict[str, Any]:
    """With sequence parallelism where there is TP, and ZeRO-1 where there are replicas."""
    degrees = ("tensor_parallel", "pipeline_parallel", "context_parallel")
    built: dict[str, Any] = {name: given.get(name, 1) for name in degrees}
    tensor, pipeline, _ = built.values()
    zero = given.get("zero", int(workload.cluster.ranks > tensor * pipeline))
    if zero not in (0, 1):
        raise ValueError(f"--zero {zero}: Megatron shards the optimizer (1) or does not (0)")
    built["distributed_optimizer"] = zero == 1
    built["sequence_parallel"] = tensor > 1 and "no_sequence_parallel" not in given
    what = given.get("recompute", "none")
    if what.isdecimal():
        return {**built, "recompute": "block", "recompute_layers": int(what)}
    if what in ("none", "full"):
        return {**built, "recompute": what}
    return {**built, "recompute": "modules", "recompute_modules": tuple(what.split(","))}


def _deepspeed(given: Mapping[str, Any], workload: Workload) -> dict[str, Any]:
    """All ranks in one Ulysses group if nothing is said."""
    what = given.get("recompute", "none")
    if what not in ("none", "full") and not what.isdecimal():
        raise ValueError(f"--recompute {what}: DeepSpeed takes none, full or a number of blocks")
    return {
        "sequence_parallel": given.get("sequence_parallel", workload.cluster.ranks),
        "zero_stage": given.get("zero", 1),
        "checkpointing": "none" if what == "none" else "blocks",
        "checkpointed_layers": int(what) if what.isdecimal() else None,
        "tiled_mlp": given.get("tiled_mlp", 0),
        "tiled_loss": given.get("tiled_loss", False),
    }


def _as_named(given: Mapping[str, Any], _: Workload) -> dict[str, Any]:
    return dict(given)


@dataclass(frozen=True, kw_only=True)
class _System:
    """The flags a system takes, and how they become its settings' fields."""

    takes: tuple[str, ...]
    build: Callable[[Mapping[str, Any], Workload], dict[str, Any]]


_SYSTEMS = {
    "megatron": _System(
        takes=(
            "tensor_parallel",
            "pipeline_parallel",
            "context_parallel",
            "no_sequence_parallel",
            "recompute",
            "zero",
        ),
        build=_megatron,
    ),
    "deepspeed": _System(
        takes=("sequence_parallel", "zero", "recompute", "tiled_mlp", "tiled_loss"),
        build=_deepspeed,
    ),
    "sppo": _System(
        takes=(
            "pipeline_parallel",
            "sequence_parallel",
            "data_parallel",
            "subsequences",
            "virtual_stages",
            "policy",
            "msp",
        ),
        build=_as_named,
    ),
}
