"""What goes into the history: run folders, results of `sppo-bench check`, pytest-benchmark JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.environment import CHECKOUT
from benchmarks.regression import git
from benchmarks.regression.history.entry import Entry
from benchmarks.regression.history.from_benchmarks import entry_of_benchmarks
from benchmarks.regression.history.from_check import entry_of_check
from benchmarks.regression.history.from_run import entries_of_run

KINDS = "a folder of `sppo-bench run`, JSON of `sppo-bench check` or of `tox -e perf`"


def entries_of(path: Path) -> list[Entry]:
    """The entries of one source, with the dates of their commits where git knows them.

    Raises ValueError or OSError.
    """
    entries = entries_of_run(path) if path.is_dir() else [_entry_of_file(path)]
    for entry in entries:
        if not entry.metrics and not entry.void:
            raise ValueError(f"{path}: no row has a number: see `sppo-bench table {path}`")
    return [
        msgspec.structs.replace(entry, committed=git.commit_date(entry.commit, CHECKOUT))
        for entry in entries
    ]


def _entry_of_file(path: Path) -> Entry:
    data = path.read_bytes()
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); name {KINDS}") from None
    if isinstance(value, dict) and {"machine_info", "benchmarks"} <= value.keys():
        return entry_of_benchmarks(path, data)
    if isinstance(value, dict) and str(value.get("schema")).startswith("sppo-check/"):
        return entry_of_check(path, data)
    raise ValueError(f"{path}: neither of the known sources; name {KINDS}")
