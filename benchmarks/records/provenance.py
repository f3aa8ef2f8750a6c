"""Where a record's numbers come from: machine, commit, versions, date."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from benchmarks import environment as environments
from benchmarks.records.record import Record


def is_crowded(record: Record) -> bool:
    """Whether ranks shared cores, so that measured times are no result."""
    cores, cluster = record.environment.get("cores"), record.workload.cluster
    ranks = min(record.ranks, cluster.ranks_per_node)
    return cluster.device == "cpu" and cores is not None and ranks > cores


def machine(record: Record) -> str:
    """The device and the number of devices; on a CPU the processor and its cores."""
    environment = record.environment
    device = environment.get("device") or environment.get("cpu_model") or "an unknown machine"
    if record.workload.cluster.device == "cpu":
        return f"{device}, {environment.get('cores', '?')} cores"
    return f"{record.ranks} x {device}"


def measured_on(record: Record) -> str:
    """ "AMD EPYC, 2 cores, commit 520ef9f91 with changes, 2026-11-28"."""
    return f"{machine(record)}, {commit_words(record.environment)}, {record.started[:10]}"


def commit_words(values: Mapping[str, Any]) -> str:
    """ "commit 520ef9f91 with changes", of an environment or of what `origin` returns."""
    name = values.get("commit")
    if not name or not isinstance(name, str):
        return "no commit known"
    return f"commit {name[:9]}{' with changes' if values.get('dirty') else ''}"


def version_text() -> str:
    """Version of the package and commit of the checkout, "with changes" where files differ."""
    commit, dirty = environments.git_state(environments.CHECKOUT)
    words = commit_words({"commit": commit, "dirty": dirty})
    return f"sppo-bench {version('sppo-suite')}, {words}"


def library_words(environment: Mapping[str, Any]) -> str:
    """ "torch 2.11.0, megatron-core 0.16.1, deepspeed 0.19.8": what counts depend on."""
    known = environment.get("versions", {})
    libraries = ("torch", "megatron-core", "deepspeed")
    return ", ".join(f"{name} {known[name]}" for name in libraries if name in known)


def origin(record: Record) -> dict[str, Any]:
    """Machine, library versions, commit and date of a record, for the head of a file."""
    environment = record.environment
    return {
        "machine": machine(record),
        "versions": environment.get("versions", {}),
        "commit": environment.get("commit") or "unknown",
        "dirty": bool(environment.get("dirty")),
        "date": record.started[:10],
    }
