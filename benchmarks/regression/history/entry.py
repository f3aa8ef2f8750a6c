"""A line of the history: the metrics of one run on one machine, and what they depend on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from benchmarks.nvml import UNKNOWN_GPU

SCHEMA = "sppo-history/1"

Better = Literal["less", "more"]

KEYED_LIBRARIES = ("torch", "megatron-core", "deepspeed", "numpy", "scipy", "triton")
"""Libraries whose version is part of a series' key: they do the work that is timed or counted."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A GPU as far as its settings change its speed. None stands for what was not reported."""

    name: str
    graphics_clock_max_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    graphics_clock_wanted_mhz: int | None = None
    memory_clock_wanted_mhz: int | None = None
    power_limit_watts: float | None = None
    persistence_mode: bool | None = None
    mig_mode: bool | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fingerprint of a machine. Machines of one type and the same settings have the same."""

    cpu_model: str
    cores: int
    memory_gib: int
    gpus: list[Gpu] = []

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> Machine:
        """The machine of an environment of `describe_environment`, also of an older record's."""
        settings = [
            {**gpu, "name": gpu.get("name") or UNKNOWN_GPU}
            for gpu in environment.get("gpu_settings") or []
        ]
        names = [{"name": name} for name in environment.get("gpus") or []]
        return cls(
            cpu_model=environment.get("cpu_model") or "unknown processor",
            cores=environment.get("cores") or 0,
            memory_gib=round((environment.get("memory_bytes") or 0) / 1024**3),
            gpus=msgspec.convert(settings or names, list[Gpu]),
        )

    @property
    def id(self) -> str:
        """Words and a digest of all that the fingerprint holds: "amd-epyc-2-cores-1f0c52aa"."""
        names = [self.gpus[0].name, f"{len(self.gpus)} gpus"] if self.gpus else [self.cpu_model]
        words = "-".join([*names, f"{self.cores}-cores"]).lower()
        digest = hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:8]
        return f"{re.sub(r'[^a-z0-9]+', '-', words).strip('-')[:48]}-{digest}"


def versions_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """Versions of Python, of the keyed libraries and of the GPU driver."""
    known = environment.get("versions") or {}
    versions = {name: known[name] for name in KEYED_LIBRARIES if name in known}
    python = ".".join(str(environment.get("python", "")).split(".")[:2])
    drivers = {gpu.get("driver") for gpu in environment.get("gpu_settings") or []} - {None}
    return {
        **({"python": python} if python else {}),
        **versions,
        **({"nvidia-driver": ", ".join(sorted(drivers))} if drivers else {}),
    }


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One number of a run.

    name: what was measured and the quantity, as "tiny-cpu-136MiB/sppo/step_seconds". exact: a
    count, which has no noise. setting: the size of the work; a change breaks the series. void: why
    the number is not judged.
    """

    name: str
    value: int | float
    unit: str
    better: Better = "less"
    exact: bool = False
    low: float | None = None
    high: float | None = None
    setting: str = ""
    void: str = ""


class Entry(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag=SCHEMA
):
    """The metrics of one run on one machine.

    date: of the measurement, ISO 8601 in UTC. commit: "" if unknown; committed: its date. dirty:
    files differed from the commit. void: why the whole run is not judged; "" for a good run.
    source: the name of the file or folder.
    """

    kind: Literal["run", "check", "micro-benchmarks"]
    date: str
    commit: str = ""
    committed: str = ""
    dirty: bool = False
    machine: Machine
    versions: dict[str, str] = {}
    metrics: list[Metric]
    void: str = ""
    source: str = ""

    @property
    def content(self) -> bytes:
        """What makes two lines the same: all but the place of the source and the commit's date."""
        return msgspec.json.encode(msgspec.structs.replace(self, committed="", source=""))

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two lines the same measurement, of which the later line counts.

        Only a run grows. Two checks of one commit may have different topics.
        """
        versions = tuple(sorted(self.versions.items()))
        commit = (self.commit, self.dirty)
        names = () if self.kind == "run" else tuple(metric.name for metric in self.metrics)
        return self.kind, self.date, *commit, self.machine.id, versions, self.source, names

    @property
    def order(self) -> tuple[str, str]:
        """By commit, then by measurement; an unknown commit by its measurement."""
        return self.committed or self.date, self.date

    @property
    def commit_name(self) -> str:
        """ "520ef9f91+" for a commit with changes, "no commit" without one."""
        return f"{self.commit[:9]}{'+' if self.dirty else ''}" if self.commit else "no commit"
