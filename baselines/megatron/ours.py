"""Megatron-Core with a wrapper of ours around its layers, which saves attention's output.

Megatron has no such option. So this is a system of its own, marked as ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from baselines.megatron import settings as megatron_settings
from baselines.megatron.adapter import MegatronAdapter
from baselines.megatron.settings import MegatronSettings, Recompute, layout_of_flags
from sppo.config.workload import Workload

FLAGS = megatron_settings.FLAGS
"""The flags of `sppo-bench emulate` for this system."""


def of_flags(given: Mapping[str, Any], workload: Workload) -> MegatronSettings:
    """`--recompute save-attention` if not given; `:N` for N layers of each model chunk.

    Raises ValueError.
    """
    words = given.get("recompute", "save-attention")
    kind, _, count = words.partition(":")
    if kind != "save-attention" or (count and not count.isdecimal()):
        raise ValueError(
            f"--recompute {words}: megatron-ours takes save-attention, or save-attention:2 for 2 "
            "layers of each model chunk; emulate megatron has Megatron's own choices"
        )
    return MegatronSettings(
        **layout_of_flags(given, workload),
        recompute="save-attention",
        recompute_layers=int(count or 0),
    )


class MegatronOursAdapter(MegatronAdapter):
    """Every layout of Megatron, with all but attention recomputed."""

    name = "megatron-ours"
    remark = f"{MegatronAdapter.remark}; attention saved: ours, a wrapper around Megatron's layer"
    recomputes: tuple[Recompute, ...] = ("save-attention",)

    def recompute_choices(
        self, layout: MegatronSettings, layers: int
    ) -> Iterator[MegatronSettings]:
        """A quarter, half, three quarters or all of a chunk's layers."""
        some = sorted({layers * quarter // 4 for quarter in (1, 2, 3)} - {0, layers})
        for count in (*some, 0):
            yield replace(layout, recompute="save-attention", recompute_layers=count)


ADAPTER = MegatronOursAdapter()
