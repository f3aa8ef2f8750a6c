"""The kernels of a run: chosen once, kept in its folder, the same for all rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from baselines import registry
from baselines.protocol import Unavailable, check_tried
from benchmarks.job import Kernels
from benchmarks.records import store
from benchmarks.rows.row import Configuration
from benchmarks.worker.kernels import measured_kernels
from sppo.config.workload import Workload

NAME = "kernels.json"
SCHEMA = "sppo-kernels/1"

AUTO = "auto"
NAMES = ("flash", "cudnn", "fa3", "fa4", "math")
"""As `sppo.kernels.registry.NAMES`, without an import of torch."""

OF_CPUS = ("flash", "math")


class KernelsFile(msgspec.Struct, frozen=True, kw_only=True):
    """The kernels of a folder's launches."""

    schema: str = SCHEMA
    kernels: Kernels


def checked(name: str, workload: Workload, *, forced: bool, fused: bool) -> Kernels:
    """The kernels that were asked for. Raises ValueError with the cure, before anything is run."""
    on_cpu = workload.cluster.device == "cpu"
    known = OF_CPUS if on_cpu else NAMES
    if name not in (AUTO, *known):
        where = f" on a CPU, and {workload.name} runs on one" if on_cpu and name in NAMES else ""
        raise ValueError(
            f"--attention-kernel {name}: no such kernel{where}; take {AUTO}, {', '.join(known)}"
        )
    if on_cpu and (fused or forced):
        flag = "--fuse" if fused else "--force-kernel"
        raise ValueError(f"leave {flag} out: it is for CUDA, and {workload.name} runs on a CPU")
    return Kernels(attention=name, asked=name, forced=forced, fused=fused)


def check_rows(configurations: Iterable[Configuration], *, forced: bool) -> None:
    """Raise ValueError for a row that could start and whose system has never run."""
    for configuration in configurations:
        if configuration.status is None:
            try:
                check_tried(registry.load(configuration.row.system), forced=forced)
            except Unavailable as error:
                raise ValueError(str(error)) from None


def choose(asked: Kernels, workload: Workload, directory: Path) -> Kernels:
    """The kernels of the run in this folder: those of its first start, else chosen now.

    On a CPU `auto` is torch's flash operator. On CUDA it is the fastest of a short measurement.
    Raises NotSupported where the measurement fails, OSError.
    """
    path = directory / NAME
    if path.is_file():
        return store.read_json(path, KernelsFile, SCHEMA, "measure anew without --resume").kernels
    chosen = asked
    if asked.attention == AUTO and workload.cluster.device == "cpu":
        chosen = msgspec.structs.replace(asked, attention="flash")
    elif asked.attention == AUTO:
        measured = measured_kernels(workload, forced=asked.forced)
        chosen = msgspec.structs.replace(measured, fused=asked.fused)
    if workload.cluster.device != "cpu":
        store.save(path, KernelsFile(kernels=chosen))
    return chosen
