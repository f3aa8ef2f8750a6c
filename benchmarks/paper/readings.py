"""How each system's layout at a point of the paper is read: one rule per row, stated, for all.

The paper names degrees ("SP", "PP") and not what they are in Megatron or DeepSpeed, and not how
many sequences a step has. These are the rules; no point has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from baselines import registry
from benchmarks.paper import reported
from benchmarks.paper.reported import ReportedPoint
from sppo.config.models import MODELS
from sppo.config.sizes import parse_tokens

LONGEST_MODEL = "gpt-7b"
"""Fig. 12's."""

Word = Literal["fits", "oom", "cannot run"]
"""What the paper says of a system at a point."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One row of the comparison.

    settings: of the system at a point. says: the paper's word there (fig. 10), None where it is
    silent. says_longest: its tokens on so many GPUs (fig. 12), 0 for "cannot run", None where it is
    silent. counted: part of the verdicts that are compared; else shown beside them.
    """

    name: str
    system: str
    rule: str
    counted: bool
    settings: Callable[[ReportedPoint], Any]
    says: Callable[[ReportedPoint], Word | None]
    says_longest: Callable[[int], int | None]


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


def _ulysses(degree: int) -> Any:
    return registry.load("deepspeed").settings_type(
        sequence_parallel=degree, zero_stage=3, checkpointing="blocks"
    )


def _over_all(point: ReportedPoint) -> Any:
    return _ulysses(point.gpus)


def _over_heads(point: ReportedPoint) -> Any:
    return _ulysses(min(point.gpus, MODELS[point.model].heads))


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
    """Table 4 has degrees for 7B only, which it fits (fig. 12); of 13B the text says why not."""
    if not point.deepspeed_runs:
        return "cannot run"
    return _up_to(point, reported.longest("deepspeed", point.model, point.gpus))


def _says_deepspeed_in_the_figure(point: ReportedPoint) -> Word | None:
    return _up_to(point, reported.statements(point.model).get("deepspeed_max"))


def _says_sppo(_: ReportedPoint) -> Word | None:
    return "fits"


def _longest_of(system: str) -> Callable[[int], int | None]:
    def says(gpus: int) -> int | None:
        found = reported.longest(system, LONGEST_MODEL, gpus)
        return 0 if found is None else parse_tokens(found)

    return says


def _silent(_: int) -> int | None:
    return None


READINGS = (
    Reading(
        name="Megatron, SPPO's degrees",
        system="megatron",
        rule="table 4's SP x PP as TP x PP with sequence parallelism, every block recomputed",
        counted=True,
        settings=_same_degrees,
        says=_says_megatron,
        says_longest=_silent,
    ),
    Reading(
        name="Megatron, tuned degrees",
        system="megatron",
        rule="the same of table 4's tuned degrees (for fig. 12 on more GPUs: TP 32, more stages)",
        counted=False,
        settings=_tuned,
        says=_says_tuned,
        says_longest=_longest_of("megatron_tuned"),
    ),
    Reading(
        name="DeepSpeed",
        system="deepspeed",
        rule="Ulysses over all GPUs, as in table 4; ZeRO-3, every block checkpointed",
        counted=True,
        settings=_over_all,
        says=_says_deepspeed,
        says_longest=_longest_of("deepspeed"),
    ),
    Reading(
        name="DeepSpeed, SP = heads",
        system="deepspeed",
        rule="the same over as many GPUs as heads, with replicas: fig. 10 has 65B so, table 4 not",
        counted=False,
        settings=_over_heads,
        says=_says_deepspeed_in_the_figure,
        says_longest=_silent,
    ),
    Reading(
        name="SPPO",
        system="sppo",
        rule="the plan of this project's solver",
        counted=True,
        settings=_sppo,
        says=_says_sppo,
        says_longest=_longest_of("sppo"),
    ),
)
