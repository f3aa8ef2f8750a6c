"""Megatron-Core with its layer spec for TransformerEngine, on CUDA: a system of its own.

It has never run: no machine with TransformerEngine was there. So it starts by --force-kernel alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from itertools import product
from typing import Any, get_args

from baselines.megatron import settings as megatron_settings
from baselines.megatron.adapter import MegatronAdapter
from baselines.megatron.settings import CpCommType, MegatronSettings
from baselines.megatron.te_rules import OFFLOADABLE, missing_with_te, te_obstacle
from baselines.protocol import Context, System, Unavailable, Weights
from sppo.config.workload import Workload

FLAGS = megatron_settings.FLAGS
"""The flags of `sppo-bench emulate` for this system."""

NOT_EMULATED = (
    "TransformerEngine's kernels read the memory of a GPU, so they cannot be emulated; megatron, "
    "without TE, can"
)


def of_flags(given: Mapping[str, Any], workload: Workload) -> MegatronSettings:
    """As for Megatron, with TransformerEngine's layer spec. Raises ValueError."""
    return replace(megatron_settings.of_flags(given, workload), transformer_engine=True)


class MegatronTeAdapter(MegatronAdapter):
    """Every layout of Megatron, with TransformerEngine's ways of CP, and with offloading."""

    name = "megatron-te"
    remark = (
        "with TE: Megatron's layer spec for TransformerEngine, not yet proved on a GPU; core "
        "attention: ours, on the run's kernel; with cp_comm_type: TE's own attention, not the "
        "run's kernel, of the same family (FlashAttention or cuDNN)"
    )
    never_ran = "Megatron with TransformerEngine"

    def grid(self, workload: Workload) -> tuple[MegatronSettings, ...]:
        """As Megatron's. With CP each point is there for every `cp_comm_type` and without one.

        So it is with and without offloading, where Megatron offloads.
        """
        return tuple(
            each
            for point in super().grid(workload)
            for each in _with_te(point, workload.model.layers)
            if te_obstacle(workload, each) is None
        )

    def same_layout(
        self,
        workload: Workload,
        pipeline_parallel: int,
        tensor_parallel: int,
        context_parallel: int = 1,
    ) -> MegatronSettings:
        degrees = pipeline_parallel, tensor_parallel, context_parallel
        return replace(super().same_layout(workload, *degrees), transformer_engine=True)

    def absent(self, workload: Workload, settings: MegatronSettings) -> str | None:
        return missing_with_te(workload, settings)

    def check_emulated(self, workload: Workload, settings: MegatronSettings) -> None:
        """Raise Unavailable for every setting."""
        raise Unavailable(f"{self.name}, {self.describe(settings)}: {NOT_EMULATED}")

    def prepare(
        self, workload: Workload, settings: MegatronSettings, weights: Weights, context: Context
    ) -> System:
        self.check(workload, settings)
        try:
            import_module("transformer_engine.pytorch")
        except (ImportError, OSError, RuntimeError) as error:
            line = str(error).partition("\n")[0]
            raise Unavailable(f"TransformerEngine is installed and does not load: {line}") from None
        return super().prepare(workload, settings, weights, context)


def _with_te(point: MegatronSettings, layers: int) -> Iterator[MegatronSettings]:
    """The point with each way of CP, then the same with modules or nearly all layers offloaded."""
    kinds = get_args(CpCommType) if point.context_parallel > 1 else ()
    offloads: tuple[dict[str, Any], ...] = (
        {},
        {"offload_modules": OFFLOADABLE},
        {"cpu_offloading_layers": layers - 1},
    )
    for offload, kind in product(offloads, (None, *kinds)):
        yield replace(point, transformer_engine=True, cp_comm_type=kind, **offload)


ADAPTER = MegatronTeAdapter()
