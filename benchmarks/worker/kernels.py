"""The kernels of a rank, and the measurement that chooses the kernel of attention for a run.

    python -m benchmarks.worker.kernels DEVICE DTYPE HEADS KV_HEADS WIDTH [forced]

It prints the choice as JSON.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec

from benchmarks.environment import child_environment, import_path
from benchmarks.job import Job, Kernels
from sppo.config.errors import NotSupported
from sppo.config.workload import Workload

LIMIT_SECONDS = 120.0
"""Of the measurement, with the import of torch and the first start of the device."""


def use_kernels(job: Job, device: object) -> None:
    """Use the job's kernels in this rank. The reference has torch's own choice.

    Raises NotSupported where a kernel cannot run here, or computes something else.
    """
    if job.system == "reference":
        return
    import torch

    from benchmarks.worker.weights import torch_dtype
    from sppo.kernels import choice, fused

    assert isinstance(device, torch.device)
    model = job.workload.model
    heads = choice.Heads(query=model.heads, kv=model.kv_heads, width=model.head_width)
    dtype = torch_dtype(job.workload.dtype)
    choice.select(job.kernels.attention, device, dtype, heads, forced=job.kernels.forced)
    if job.kernels.fused:
        fused.fuse(device)


def measured_kernels(workload: Workload, *, forced: bool) -> Kernels:
    """The fastest kernel of attention for a workload, measured in a process of its own.

    Raises NotSupported with the measuring process's words.
    """
    model = workload.model
    sizes = map(str, (model.heads, model.kv_heads, model.head_width))
    command = [sys.executable, "-m", __name__, workload.cluster.device, workload.dtype, *sizes]
    try:
        done = subprocess.run(
            [*command, *(["forced"] if forced else [])],
            env=child_environment(import_path()),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=True,
        )
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Kernels)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no words"])[-1]
    except (subprocess.TimeoutExpired, OSError, IndexError, msgspec.DecodeError) as error:
        reason = str(error).partition("\n")[0]
    raise NotSupported(f"the kernels of attention were not measured: {reason}; name one instead")


def main() -> None:
    """Measure, and print the choice."""
    import torch

    from benchmarks.worker.weights import torch_dtype
    from sppo.kernels import choice

    kind, dtype, heads, kv_heads, width, *further = sys.argv[1:]
    forced = "forced" in further
    chosen = choice.choose(
        torch.device(kind),
        torch_dtype(dtype),
        choice.Heads(query=int(heads), kv=int(kv_heads), width=int(width)),
        forced=forced,
    )
    kernels = Kernels(
        attention=chosen.name,
        asked=choice.AUTO,
        forced=forced,
        seconds=chosen.seconds,
        refused=chosen.refused,
    )
    print(msgspec.json.encode(kernels).decode())


if __name__ == "__main__":
    main()
