"""Emulated ranks without processes: counts that are linear in the layers of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from baselines.protocol import Role
from benchmarks.accounting.memory_timeline import StepPosition
from benchmarks.emulation.result import Counts, EmulationJob, Operations, RoleReport, Traffic
from sppo.cost_model.flops import step_flops

STATE_BYTES = 10 * 2**30

NO_PEAK = StepPosition(phase="forward", backwards=0, all_backwards=1, operation="mm", share=0.5)


def counts(peak_bytes: int, *, attention: int = 0, again: int = 0, calls: int = 0) -> Counts:
    """A step of causal attention alone: its FLOPs, those recomputed, messages in a node."""
    message = Traffic(
        operation="all_gather",
        group="0-7",
        group_ranks=8,
        link="in node",
        calls=calls,
        bytes=8 * calls,
        sent_bytes=calls,
    )
    flops = attention + attention // 2 * 5 + again
    return Counts(
        peak_device_bytes=peak_bytes,
        peak_host_bytes=0,
        activation_peak_bytes=peak_bytes,
        before_step_bytes=STATE_BYTES,
        peak_by_kind_bytes={"weights": STATE_BYTES},
        at_peak_by_kind_bytes={"activations": peak_bytes},
        peak_at=NO_PEAK,
        flops=flops,
        flops_by_operation=Operations(
            matmul=0, attention_causal=flops, attention_full=2 * flops, recomputed=again
        ),
        flops_by_operator={
            "flash_attention": attention + again,
            "flash_attention_backward": attention // 2 * 5,
        },
        communication_bytes=8 * calls,
        communication_by_link_bytes={"in node": 8 * calls, "between nodes": 0},
        communication=[message] if calls else [],
        copied_to_host_bytes=0,
        copied_from_host_bytes=0,
    )


def recomputed(settings: Mapping[str, Any], layers: int) -> int:
    """Layers of Megatron's stage that are recomputed."""
    return layers if settings["recompute"] == "full" else int(settings["recompute_layers"])


Peak = Callable[[Mapping[str, Any], int, int], int]
"""(settings, layers of a stage, tokens) -> bytes beside the state."""


@dataclass
class MadeUpRanks:
    """Stands for `processes.emulate_rank`. asked: (layers of the model, settings, tokens, rank)."""

    peak: Peak
    messages: Callable[[Mapping[str, Any], int], int] = lambda settings, layers: layers
    asked: list[tuple[int, Mapping[str, Any], int, int]] = field(default_factory=list)

    def emulate_rank(
        self, role: Role, job: EmulationJob, time_limit_seconds: float, ended: Event
    ) -> RoleReport:
        settings, workload = job.settings, job.workload
        layers = workload.model.layers // settings["pipeline_parallel"]
        tokens = workload.sequence_tokens
        self.asked.append((workload.model.layers, settings, tokens, role.rank))
        inner = settings["tensor_parallel"] * settings["context_parallel"]
        a_layer = step_flops(workload).attention_causal // workload.model.layers // inner // 12 * 4
        counted = counts(
            STATE_BYTES + self.peak(settings, layers, tokens),
            attention=layers * a_layer,
            again=recomputed(settings, layers) * a_layer,
            calls=self.messages(settings, layers),
        )
        (Path(job.output_directory) / f"live-{role.rank}.csv").touch()
        return RoleReport(
            role=role.name,
            rank=role.rank,
            ranks=role.ranks,
            status="ok",
            phase="step",
            peak_device_bytes=counted.peak_device_bytes,
            peak_host_bytes=0,
            flops=counted.flops,
            communication_bytes=counted.communication_bytes,
            counts=counted,
        )

    def whole(self, layers: int) -> list[tuple[int, Mapping[str, Any], int, int]]:
        """The ranks of models of so many layers."""
        return [asked for asked in self.asked if asked[0] == layers]
