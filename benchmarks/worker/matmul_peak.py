"""The best matrix product of this machine, as the peak of its FLOP/s."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.environment import child_environment, import_path
from benchmarks.records.record import Peak


def measured_peak(threads: int, device: str = "cpu", dtype: str = "float32") -> Peak | None:
    """The best matrix product in a process of its own, with the threads of a rank (about 2 s).

    None if the measurement fails; the table then has no MFU.
    """
    command = [sys.executable, "-m", "benchmarks.worker.matmul_peak", str(threads), device, dtype]
    try:
        done = subprocess.run(
            command,
            env=child_environment(import_path()),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        flops_per_second = float(done.stdout.split()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None
    size = matrix_size(device)
    source = f"best of repeated {size} x {size} torch.mm, {dtype}, {threads} thread(s), {device}"
    return Peak(flops_per_second=flops_per_second, source=source, kind="measured")


def matrix_size(device: str) -> int:
    """Rows and columns of the measured product.

    On a CPU a product takes some milliseconds, so that some run between two turns of a neighbour.
    """
    return 512 if device == "cpu" else 8192


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
