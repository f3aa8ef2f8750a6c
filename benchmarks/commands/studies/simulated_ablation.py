"""`sppo-bench ablation --simulate`: the paper's fig. 11 as tables of simulated steps, or JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from tyro.conf import Positional, arg

from benchmarks.commands import arguments
from benchmarks.commands.arguments import DEGREE_FLAGS, UsageError, usage_errors
from benchmarks.commands.flags import Degrees, Described
from benchmarks.commands.output import show
from benchmarks.paper import reported
from benchmarks.paper.offload_ablation import SCHEMA, AblationPoint, ablation_point
from benchmarks.paper.offload_ablation_report import as_json, text
from benchmarks.paper.reported import ReportedPoint
from sppo.config.hardware import Hardware, load_hardware
from sppo.config.workload import Workload
from sppo.planner.options import SolverOptions


@dataclass(frozen=True, kw_only=True)
class SimulatedAblation(Degrees, Described):
    """The flags of `ablation --simulate`, and its simulations."""

    workload: Annotated[Positional[str | None], arg(metavar="WORKLOAD")] = None
    """A name of `sppo-bench list`; tiny-cpu if not given. With --simulate also by --model, --seq,
    --gpus and --hardware; the paper's two points if neither is given."""
    simulate: bool = False
    """Full offload, adaptive offload, + MSP in one layout, simulated; needs no GPU. The layout is
    the paper's where it states one, with one model chunk a stage."""
    host_link: Annotated[float | None, arg(metavar="GB/S")] = None
    """With --simulate: GB/s between a device and its host, each way; the profile's if not given."""
    node_link: Annotated[float | None, arg(metavar="GB/S")] = None
    """With --simulate: GB/s of one rank to another node; the profile's if not given."""

    def simulated_points(self) -> list[AblationPoint]:
        """Every point under every variant. Raises UsageError."""
        arguments.check_positive(self, DEGREE_FLAGS)
        with usage_errors(OSError):
            asked = SolverOptions(**{name: getattr(self, name) for name in DEGREE_FLAGS})
            return [
                ablation_point(workload, self._profile(workload), asked, source)
                for workload, source in self._workloads()
            ]

    def _workloads(self) -> Iterator[tuple[Workload, ReportedPoint | None]]:
        """The described workload, or the points of the paper's fig. 11."""
        described = arguments.find_described(self)
        if described is not None:
            yield described, reported.find_point(described)
            return
        for source in reported.ablation_points():
            yield source.workload(device_memory=self.device_memory), source

    def _profile(self, workload: Workload) -> Hardware:
        """The workload's profile with the asked links, which its name states. Raises UsageError."""
        profile = load_hardware(workload.cluster.hardware)
        for name, fields, words in (
            ("host_link", ("d2h_bytes_per_second", "h2d_bytes_per_second"), "host link"),
            ("node_link", ("internode_bytes_per_second",), "node link"),
        ):
            rate = getattr(self, name)
            if rate is None:
                continue
            if not 0 < rate < math.inf:
                raise UsageError(f"{arguments.flag(name)} {rate:g}: it must be more than 0 GB/s")
            changes: dict[str, Any] = dict.fromkeys(fields, rate * 1e9)
            changes["name"] = f"{profile.name}, {words} {rate:g} GB/s"
            profile = replace(profile, **changes)
        return profile


def show_points(points: Sequence[AblationPoint], json: bool) -> int:
    """Print tables or JSON. The exit code is 1 if no variant of any point has a plan."""
    values = {"schema": SCHEMA, "points": [as_json(point) for point in points]}
    show(json, values, "\n\n".join(text(point) for point in points))
    return 0 if any(row.status == "ok" for point in points for row in point.rows) else 1
