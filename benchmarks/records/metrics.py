"""FLOPs from the workload, times from the steps, utilisation from both.

Conventions: a multiply-add is two operations; a backward costs twice its forward (one product for
the input's gradient, one for the weight's), so a step is three forwards. Norms, activation
functions, RoPE, the embedding look-up and the optimizer are not counted, as in the field.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.job import MASKED, Accounted
from benchmarks.records.record import Flops, Peak, Record, StepRecord
from sppo.config.workload import Workload
from sppo.cost_model import flops as model_flops

_NVIDIA = "NVIDIA datasheet, dense BF16 without sparsity"
DATASHEET = (
    (r"A100-(SXM4-[48]0GB|PCIE-40GB)", 312e12, "nvidia.com/en-us/data-center/a100"),
    (r"A100 80GB PCIe", 312e12, "nvidia.com/en-us/data-center/a100"),
    (r"H100 NVL", 835.5e12, "nvidia.com/en-us/data-center/h100 (NVL)"),
    (r"H100 PCIe", 756.5e12, "H100 PCIe product brief"),
    (r"H100 80GB HBM3", 989.4e12, "nvidia.com/en-us/data-center/h100 (SXM)"),
    (r"H200 NVL", 835.5e12, "nvidia.com/en-us/data-center/h200 (NVL)"),
    (r"H200", 989.4e12, "nvidia.com/en-us/data-center/h200 (SXM)"),
    (r"B200", 2250e12, "nvidia.com/en-us/data-center/dgx-b200"),
)
"""The whole name of a device after "NVIDIA", as a pattern, FLOP/s of one device, source.

A name with anything else in it (a MIG slice, a vGPU, another card of the family) is not known.
"""


def step_flops(workload: Workload) -> Flops:
    """Operations of one optimizer step over all ranks: exact, from the workload alone."""
    return msgspec.convert(model_flops.step_flops(workload), Flops, from_attributes=True)


def with_recompute(flops: Flops, accounted: Sequence[Accounted | None]) -> Flops:
    """Add the recomputed operations: those counted beyond the workload's own.

    A fused attention takes seven products for the six of the convention, because its backward
    computes QK^T again. That product is no recomputation, and masked work is not counted either.
    `recompute` stays None (unknown) where a rank was not counted.
    """
    counts = [rank.flops for rank in accounted if rank is not None]
    if not counts or len(counts) < len(accounted):
        return flops
    counted = sum(
        count for rank in counts for name, count in rank.items() if not name.endswith(MASKED)
    )
    extra = max(0, counted - flops.dense - flops.attention_causal // 6 * 7)
    return msgspec.structs.replace(flops, recompute=extra)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles. A single value is its own quartiles."""

    median: float
    low: float
    high: float

    @property
    def relative(self) -> float:
        """The interquartile range over the median."""
        return (self.high - self.low) / self.median


def spread(values: Sequence[float]) -> Spread | None:
    """Median and interquartile range (inclusive method); None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high)


def measured_seconds(steps: Sequence[StepRecord]) -> list[float]:
    """Seconds of the measured steps, without warm-up and accounted steps."""
    return [step.seconds for step in steps if step.phase == "measured"]


def largest_bytes(records: Sequence[Record], field: str) -> int | None:
    """The largest value of a field of `Memory` over all launches and ranks; None if unknown."""
    values = [getattr(memory, field) for record in records for memory in record.memory]
    return max((value for value in values if value is not None), default=None)


def utilisation(
    flops: int | None, seconds: float | None, ranks: int, peak: Peak | None
) -> float | None:
    """FLOPs over time and the peak of all ranks, 0 to 1; None where one of them is unknown."""
    if flops is None or not seconds or peak is None:
        return None
    return flops / (seconds * ranks * peak.flops_per_second)


def datasheet_peak(device_name: str) -> Peak | None:
    """Dense BF16 peak of a CUDA device by its name; None if `DATASHEET` does not list it."""
    for name, rate, source in DATASHEET:
        if re.fullmatch(f"NVIDIA {name}", device_name):
            return Peak(flops_per_second=rate, source=f"{_NVIDIA}: {source}", kind="datasheet")
    return None
