"""Where a record's numbers come from: machine, commit, versions, date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.records.record import Record


def is_crowded(record: Record) -> bool:
    """Whether ranks shared cores, so that times say little."""
    cores = record.environment.get("cores")
    return record.workload.cluster.device == "cpu" and cores is not None and record.ranks > cores


def machine(record: Record) -> str:
    """The device (or processor) and its number, as the record knows them."""
    environment = record.environment
    device = environment.get("device") or environment.get("cpu_model") or "an unknown machine"
    if record.workload.cluster.device == "cpu":
        return f"{device}, {environment.get('cores', '?')} cores"
    return f"{record.ranks} x {device}"


def commit(record: Record) -> str:
    """ "commit 520ef9f91 with changes"."""
    return commit_words(record.environment)


def commit_words(values: Mapping[str, Any]) -> str:
    """The same of an environment, or of what `origin` returns."""
    name = values.get("commit")
    if not name:
        return "no commit known"
    return f"commit {name[:9]}{' with changes' if values.get('dirty') else ''}"


def origin(record: Record) -> dict[str, Any]:
    """Where numbers come from, for the head of a file."""
    environment = record.environment
    return {
        "machine": machine(record),
        "versions": environment.get("versions", {}),
        "commit": environment.get("commit") or "unknown",
        "dirty": bool(environment.get("dirty")),
        "date": record.started[:10],
    }
