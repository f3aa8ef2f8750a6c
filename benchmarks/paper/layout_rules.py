"""Layout rules: the settings that each system gets at every point of the paper.

The paper names degrees ("SP", "PP"). It does not say which degrees of Megatron or DeepSpeed these
are, nor how many sequences a step has. One rule per row answers for all points alike. There are two
readings: as the paper ran the systems, and at their best, the fastest settings that fit.
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

Outcome = Literal["fits", "oom", "cannot run"]
"""How a system ends at a point, in the paper's words."""

Reading = Literal["paper", "best"]
"""As the paper ran the systems, or at their best."""


PEERS = {
    "Megatron": "megatron",
    "DeepSpeed": "deepspeed",
    "PyTorch native": "native",
    "Megatron, attention saved (ours)": "megatron-ours",
    "DeepSpeed, hosted checkpoints (ours)": "deepspeed-ours",
}
"""The systems beside SPPO, by the name of their rows."""


@dataclass(frozen=True, kw_only=True)
class LayoutRule:
    """One row of the comparison.

    counted: whether the row's verdicts count in the agreement. settings: the system's settings at
    a point; None where the grid is searched for the fastest that fit. longest_tokens: the longest
    sequence the paper reports for this model, cluster and layout (fig. 10); 0 for "cannot run",
    None if the paper is silent. figure_12: the row's key in the numbers of fig. 12, "" if the
    figure has no such row. readings: those that show the row. by_name_only: shown only where the
    system is named.
    """

    name: str
    system: str
    rule: str
    counted: bool
    settings: Callable[[ReportedPoint], Any] | None
    longest_tokens: Callable[[ReportedPoint], int | None]
    figure_12: str = ""
    readings: frozenset[Reading] = frozenset(("paper",))
    by_name_only: bool = False

    @property
    def is_searched(self) -> bool:
        """Whether the settings are the fastest of the grid that fit."""
        return self.settings is None

    def paper_outcome(self, point: ReportedPoint) -> Outcome | None:
        """The paper's outcome at a point; None if the paper is silent.

        At a point of table 4 by the text and fig. 10, elsewhere by the longest of fig. 12.
        """
        in_table_4 = point.is_in_table_4
        longest = self.longest_tokens(point) if in_table_4 else self.paper_longest(point.gpus)
        if not longest:
            return None if longest is None else "cannot run"
        return "fits" if parse_tokens(point.seq) <= longest else "oom"

    def paper_longest(self, gpus: int) -> int | None:
        """Tokens in fig. 12 on so many GPUs; 0 for "cannot run", None if the paper is silent."""
        return reported.longest_tokens(self.figure_12, reported.LARGE_MODEL, gpus)


def _megatron(tensor: int, pipeline: int) -> Any:
    return registry.load("megatron").settings_type(
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        sequence_parallel=tensor > 1,
        recompute="full",
    )


def _ulysses(degree: int) -> Any:
    return registry.load("deepspeed").settings_type(
        sequence_parallel=degree, zero_stage=3, checkpointing="blocks"
    )


def _longest_of_megatron(point: ReportedPoint) -> int | None:
    longest = reported.stated_tokens(point.model, "megatron_max")
    return longest or reported.stated_tokens(point.model, "megatron_oom_above")


def _longest_of_tuned_megatron(point: ReportedPoint) -> int | None:
    if point.tuned_megatron == (point.sequence_parallel, point.pipeline_parallel):
        return _longest_of_megatron(point)
    return reported.longest_tokens("megatron_tuned", point.model, point.gpus)


def _longest_of_deepspeed(point: ReportedPoint) -> int | None:
    """Table 4 has degrees for 7B only, which fits (fig. 12). The text says why 13B cannot run."""
    if not point.deepspeed_runs:
        return 0
    return reported.longest_tokens("deepspeed", point.model, point.gpus)


LAYOUT_RULES = (
    LayoutRule(
        name="Megatron, the paper's SPPO degrees",
        system="megatron",
        rule="table 4's SP x PP as TP x PP with sequence parallelism, every block recomputed",
        counted=True,
        settings=lambda point: _megatron(point.sequence_parallel, point.pipeline_parallel),
        longest_tokens=_longest_of_megatron,
    ),
    LayoutRule(
        name="Megatron, tuned degrees",
        system="megatron",
        rule="the same of table 4's tuned degrees (for fig. 12 on more GPUs: TP 32, more stages)",
        counted=False,
        settings=lambda point: _megatron(*point.tuned_megatron),
        longest_tokens=_longest_of_tuned_megatron,
        figure_12="megatron_tuned",
    ),
    LayoutRule(
        name="DeepSpeed",
        system="deepspeed",
        rule="Ulysses over all GPUs, as in table 4; ZeRO-3, every block checkpointed",
        counted=True,
        settings=lambda point: _ulysses(point.gpus),
        longest_tokens=_longest_of_deepspeed,
        figure_12="deepspeed",
    ),
    LayoutRule(
        name="DeepSpeed, SP = heads",
        system="deepspeed",
        rule="the same over as many GPUs as heads, with replicas: fig. 10 has 65B so, table 4 not",
        counted=False,
        settings=lambda point: _ulysses(min(point.gpus, MODELS[point.model].heads)),
        longest_tokens=lambda point: reported.stated_tokens(point.model, "deepspeed_max"),
    ),
    LayoutRule(
        name="SPPO",
        system="sppo",
        rule="the plan of this project's solver",
        counted=True,
        settings=lambda _: registry.load("sppo").settings_type(),
        longest_tokens=lambda point: reported.stated_tokens(point.model, "sppo_max_tested"),
        figure_12="sppo",
        readings=frozenset(("paper", "best")),
    ),
    *(
        LayoutRule(
            name=f"{name}, at its best",
            system=system,
            rule=f"{name}: the fastest settings of its grid that fit, by simulated step",
            counted=False,
            settings=None,
            longest_tokens=lambda _: None,
            readings=frozenset(("best",)),
            by_name_only=system.endswith("-ours"),
        )
        for name, system in PEERS.items()
    ),
)
