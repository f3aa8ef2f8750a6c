"""DeepSpeed with checkpoints in host memory by code of ours (`hosted.py`), a system of its own.

DeepSpeed's own hosts tensors of CUDA alone. So on a CPU, and emulated, this system shows what a
host tier gives. With CUDA take `deepspeed` with `host_hidden_states`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from baselines.deepspeed import settings as deepspeed
from baselines.deepspeed.adapter import DeepSpeedAdapter
from baselines.deepspeed.grid import degrees, in_order, points_of
from baselines.deepspeed.settings import HOSTABLE, DeepSpeedSettings
from baselines.protocol import Context, Unavailable, Weights
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from baselines.deepspeed.system import DeepSpeedSystem

NAME = "deepspeed-ours"


class HostedDeepSpeedAdapter(DeepSpeedAdapter):
    """Builds a `DeepSpeedSystem` whose checkpoints lie in a host tier of ours."""

    name = NAME
    remark = (
        "hosted checkpoints: ours, by torch's saved-tensor hooks (DeepSpeed's own need CUDA), with "
        "synchronous copies"
    )

    def grid(self, workload: Workload) -> tuple[DeepSpeedSettings, ...]:
        """All blocks checkpointed, in the order of DeepSpeed's own grid."""
        return tuple(
            settings
            for degree in degrees(workload)
            for settings in in_order(workload, _choices(workload, degree))
        )

    def check(self, workload: Workload, settings: DeepSpeedSettings) -> None:
        """Raise Misfit or Unavailable, with the owner of the rule."""
        if settings.checkpointing not in HOSTABLE or settings.host_hidden_states:
            raise Unavailable(
                f"{NAME} hosts checkpoints of whole blocks itself: recompute save-attention or "
                "full, without host_hidden_states"
            )
        super().check(workload, settings)

    def describe(self, settings: DeepSpeedSettings) -> str:
        return f"{super().describe(settings)}, hosted"

    def prepare(
        self, workload: Workload, settings: DeepSpeedSettings, weights: Weights, context: Context
    ) -> DeepSpeedSystem:
        self.check(workload, settings)
        if context.device.type == "cuda":
            raise Unavailable(
                f"{NAME} is for CPUs and emulation: with CUDA DeepSpeed hosts checkpoints itself "
                "(deepspeed with host_hidden_states)"
            )
        return self._system(workload, settings, weights, context, hosted=True)


def _choices(workload: Workload, degree: int) -> Iterator[DeepSpeedSettings]:
    for checkpointing in HOSTABLE:
        yield from points_of(workload, degree, checkpointing)


CUDA_ALONE = ("host_hidden_states", "offload_optimizer", "fpdt")

FLAGS = tuple(name for name in deepspeed.FLAGS if name not in CUDA_ALONE)
"""The flags of `sppo-bench emulate` for settings of this system."""


def of_flags(given: Mapping[str, Any], workload: Workload) -> DeepSpeedSettings:
    """As for DeepSpeed; attention is saved if `--recompute` is not given. Raises ValueError."""
    return deepspeed.of_flags(given, workload, recompute="save-attention")


ADAPTER = HostedDeepSpeedAdapter()
