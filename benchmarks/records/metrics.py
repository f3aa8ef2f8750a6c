"""FLOPs from the workload, times from the steps, utilisation from both. Everything recomputable.

Conventions: a multiply-add is two operations; a backward costs twice its forward (one product for
the input's gradient, one for the weight's), so a step is three forwards. Norms, activation
functions, RoPE, the embedding look-up and the optimizer are not counted, as in the field.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.job import MASKED, Accounted
from benchmarks.records.record import Flops, Peak, Record, Step
from sppo.config.workload import Workload
from sppo.cost_model import flops as flops_module

_NVIDIA = "NVIDIA datasheet, dense BF16 without sparsity"
DATASHEET = (
    ("A100", 312e12, f"{_NVIDIA}: nvidia.com/en-us/data-center/a100"),
    ("H100 NVL", 835.5e12, f"{_NVIDIA}: nvidia.com/en-us/data-center/h100 (NVL)"),
    ("H100 PCIe", 756.5e12, f"{_NVIDIA}: H100 PCIe product brief"),
    ("H100", 989.4e12, f"{_NVIDIA}: nvidia.com/en-us/data-center/h100 (SXM)"),
    ("H200", 989.4e12, f"{_NVIDIA}: nvidia.com/en-us/data-center/h200 (SXM)"),
)
"""Device name contains, FLOP/s of one device, source. The first match counts."""


def step_flops(workload: Workload) -> Flops:
    """Operations of one optimizer step over all ranks: exact, from the workload alone."""
    counted = flops_module.step_flops(workload)
    return Flops(
        dense=counted.dense,
        attention_causal=counted.attention_causal,
        attention_full=counted.attention_full,
    )


def with_recompute(flops: Flops, accounted: Sequence[Accounted | None]) -> Flops:
    """Add what the ranks were counted to do beyond the workload's own operations.

    A fused attention really takes seven products for the six of the convention (its backward
    computes QK^T again); that one is its own business, not recomputation. What a causal mask
    throws away is not counted either. None (unknown) where a rank was not counted.
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
    """Median and quartiles; one value is its own quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """Median and interquartile range (inclusive method); None of no values."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high)


def measured_seconds(steps: Sequence[Step]) -> list[float]:
    """Seconds of the measured steps; warm-up and accounted steps are left out."""
    return [step.seconds for step in steps if step.phase == "measured"]


def utilisation(flops: int, seconds: float | None, ranks: int, peak: Peak | None) -> float | None:
    """Share of all ranks' peak, 0 to 1; None where there is no time or no peak."""
    if not seconds or peak is None:
        return None
    return flops / (seconds * ranks * peak.flops_per_second)


def speed_up(row: Sequence[Record], sppo: Sequence[Record]) -> float | None:
    """How many times faster SPPO's step is than that row's: the median over launch pairs.

    Launches of one number ran next to each other, so a busy neighbour slows both alike.
    """
    ours = {record.launch: record.step_seconds_median for record in sppo if record.status == "ok"}
    ratios = [
        record.step_seconds_median / seconds
        for record in row
        if record.status == "ok"
        and record.step_seconds_median is not None
        and (seconds := ours.get(record.launch)) is not None
    ]
    return statistics.median(ratios) if ratios else None


def datasheet_peak(device_name: str) -> Peak | None:
    """Dense BF16 peak of a CUDA device by its name; None where the table does not know it."""
    for name, flops_per_second, source in DATASHEET:
        if name.lower() in device_name.lower():
            return Peak(flops_per_second=flops_per_second, source=source, kind="datasheet")
    return None


def measured_peak(threads: int, device: str = "cpu", dtype: str = "float32") -> Peak | None:
    """The best matrix product of a process of its own, with one rank's threads (about 2 s).

    None where the measurement itself fails: a table without MFU beats a made-up one.
    """
    command = [sys.executable, "-m", "benchmarks.records.metrics", str(threads), device, dtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        flops_per_second = float(done.stdout.split()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None
    size = matrix_size(device)
    source = f"best of repeated {size} x {size} torch.mm, {dtype}, {threads} thread(s), {device}"
    return Peak(flops_per_second=flops_per_second, source=source, kind="measured")


def matrix_size(device: str) -> int:
    """Rows and columns of the measured product."""
    return 1024 if device == "cpu" else 8192


def best_matmul(threads: int, device: str, dtype: str, budget_seconds: float = 0.8) -> float:
    """FLOP/s of the fastest of repeated square products on one device."""
    import torch

    torch.set_num_threads(threads)
    size = matrix_size(device)
    left = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    right = left.t().contiguous()
    best = float("inf")
    end = time.perf_counter() + budget_seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return float(2 * size**3 / best)


if __name__ == "__main__":
    print(best_matmul(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
