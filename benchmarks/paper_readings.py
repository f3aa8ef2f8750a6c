"""How each system's layout at a point of the paper is read: one rule per row, stated, for all.

The paper names degrees ("SP", "PP") and not what they are in Megatron or DeepSpeed, and not how
many sequences a step has. These are the rules; no point has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from baselines import registry
from benchmarks import reported
from benchmarks.reported import ReportedPoint
from sppo.workload import MODELS, parse_tokens

SEQUENCES_PER_STEP = 4
"""The least that keeps the four stages of table 4's first layout busy."""

Word = Literal["fits", "oom", "cannot run"]
"""What the paper says of a system at a point."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One row of the comparison.

    settings: of the system at a point. says: the paper's word there, None where it is silent.
    counted: part of the verdicts that are compared; else shown beside them.
    """

    name: str
    system: str
    rule: str
    counted: bool
    settings: Callable[[ReportedPoint], Any]
    says: Callable[[ReportedPoint], Word | None]


def _megatron(tensor: int, pipeline: int) -> Any:
    return registry.load("megatron").settings_type(
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        sequence_parallel=tensor > 1,
        recompute="full",
    )


def _same_degrees(point: ReportedPoint) -> Any:
    return _megatron(point.sequence_parallel, point.pipeline_parallel)


def _tuned(point: ReportedPoint) -> Any:
    tensor, pipeline = point.tuned_megatron
    return _megatron(tensor, pipeline)


def _ulysses(point: ReportedPoint) -> Any:
    return registry.load("deepspeed").settings_type(
        sequence_parallel=min(point.gpus, MODELS[point.model].heads),
        zero_stage=3,
        checkpointing="blocks",
    )


def _sppo(_: ReportedPoint) -> Any:
    return registry.load("sppo").settings_type()


def _up_to(point: ReportedPoint, longest: str | None) -> Word | None:
    if longest is None:
        return None
    return "fits" if parse_tokens(point.seq) <= parse_tokens(longest) else "oom"


def _says_megatron(point: ReportedPoint) -> Word | None:
    said = reported.statements(point.model)
    return _up_to(point, said.get("megatron_max") or said.get("megatron_oom_above"))


def _says_tuned(point: ReportedPoint) -> Word | None:
    if point.tuned_megatron == (point.sequence_parallel, point.pipeline_parallel):
        return _says_megatron(point)
    return _up_to(point, reported.longest("megatron_tuned", point.model, point.gpus))


def _says_deepspeed(point: ReportedPoint) -> Word | None:
    said = reported.statements(point.model)
    if str(said.get("deepspeed", "")).startswith("cannot run"):
        return "cannot run"
    known = reported.longest("deepspeed", point.model, point.gpus)
    return _up_to(point, said.get("deepspeed_max") or known)


def _says_sppo(_: ReportedPoint) -> Word | None:
    return "fits"


READINGS = (
    Reading(
        name="Megatron, SPPO's degrees",
        system="megatron",
        rule="table 4's SP x PP as TP x PP with sequence parallelism, every block recomputed",
        counted=True,
        settings=_same_degrees,
        says=_says_megatron,
    ),
    Reading(
        name="Megatron, tuned degrees",
        system="megatron",
        rule="table 4's tuned SP x PP as TP x PP with sequence parallelism, every block recomputed",
        counted=False,
        settings=_tuned,
        says=_says_tuned,
    ),
    Reading(
        name="DeepSpeed",
        system="deepspeed",
        rule="Ulysses over all GPUs, at most as many as heads; ZeRO-3, every block checkpointed",
        counted=True,
        settings=_ulysses,
        says=_says_deepspeed,
    ),
    Reading(
        name="SPPO",
        system="sppo",
        rule="the plan of this project's solver; of its stages the one that it predicts fullest",
        counted=True,
        settings=_sppo,
        says=_says_sppo,
    ),
)


def find(system: str) -> list[Reading]:
    """The rows of a system."""
    return [reading for reading in READINGS if reading.system == system]
