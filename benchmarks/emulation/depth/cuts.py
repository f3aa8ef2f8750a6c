"""The same settings on models of fewer layers, whose counts add up to those of the whole model.

Layers are equal, so bytes at a position of the step, FLOPs and messages are linear in the layers of
a stage; with a count of recomputed layers, in the recomputed and the other layers. Width, sequence
and degrees stay. The page: docs/emulation.md, "Searches".
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from sppo.config.workload import Workload

LEAST_LAYERS = 2
"""Layers of a stage in the smallest model: with one layer the first is also the last."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The settings on a model of fewer layers, and the factor of its counts in the whole's."""

    workload: Workload
    settings: Any
    factor: int = 1

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return self.workload.model.layers


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Models whose counts add up to the whole's; the factors sum to one.

    check: a further model, which tells whether peaks grow as between the parts. Its peak must reach
    the sum of the parts' by `expected`, a factor a part.
    """

    parts: tuple[Cut, ...]
    check: Cut | None = None
    expected: tuple[int, ...] = ()


Layers = tuple[int, int]
"""Layers of a chunk, and how many of them are recomputed by count."""


def cuts_of(workload: Workload, settings: Any) -> Cuts | None:
    """The models to emulate in place of the whole one; None where they save nothing.

    Two depths give a line. A count of recomputed layers gives a plane through three models, which
    all settings with another count share.
    """
    counts = layer_counts(settings)
    chunks = pipeline_stages(settings) * virtual_stages(settings)
    layers, rest = divmod(workload.model.layers, chunks)
    if rest or len(counts) > 1:
        return None
    count = counts[0] if counts else None

    def cut(place: Layers, factor: int = 0) -> Cut:
        return Cut(
            workload=with_layers(workload, place[0] * chunks),
            settings=replace(settings, **{count: place[1]}) if count else settings,
            factor=factor,
        )

    recomputed = getattr(settings, count) if count else layers
    if 0 < recomputed < layers:
        factors, check, expected = _counted(layers - recomputed, recomputed)
        smallest = LEAST_LAYERS + 1
    else:
        smallest = 1 if virtual_stages(settings) > 1 else LEAST_LAYERS
        factors, check, expected = _alike(layers, smallest)
    if layers <= 2 * smallest + 1:
        return None
    parts = tuple(cut(place, factor) for place, factor in factors.items())
    return Cuts(parts=parts, check=cut(check), expected=expected)


Points = tuple[dict[Layers, int], Layers, tuple[int, ...]]
"""Factors of the parts, the check's layers, the factors that the check is expected to reach."""


def _alike(layers: int, least: int) -> Points:
    more = layers - least
    factors = {(least, least): 1 - more, (least + 1, least + 1): more}
    return factors, (least + 2, least + 2), (-1, 2)


def _counted(saved: int, recomputed: int) -> Points:
    """From one layer of each kind on; in one direction where the other has one layer."""
    more_saved, more_again = saved - 1, recomputed - 1
    base = 1 - more_saved - more_again
    if more_saved and more_again:
        return {(2, 1): base, (3, 1): more_saved, (3, 2): more_again}, (4, 2), (-1, 1, 1)
    if more_again:
        return {(2, 1): base, (3, 2): more_again}, (4, 3), (-1, 2)
    return {(2, 1): base, (3, 1): more_saved}, (4, 1), (-1, 2)


def with_layers(workload: Workload, layers: int) -> Workload:
    """The workload with a model of so many layers."""
    return replace(workload, model=replace(workload.model, layers=layers))


def pipeline_stages(settings: Any) -> int:
    """Stages of the settings' pipeline; 1 without a pipeline."""
    return int(getattr(settings, "pipeline_parallel", 1))


def virtual_stages(settings: Any) -> int:
    """Model chunks of a stage (interleaved 1F1B); 1 without interleaving."""
    names = [field.name for field in fields(settings) if field.name.startswith("virtual")]
    return max((getattr(settings, name) or 1 for name in names), default=1)


def layer_counts(settings: Any) -> list[str]:
    """The fields that count recomputed layers of a chunk, where they count any."""
    names = [field.name for field in fields(settings) if field.name.endswith("_layers")]
    return [name for name in names if getattr(settings, name)]
