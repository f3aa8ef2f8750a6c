"""`sppo-bench emulate --longest` and `--tuned`: search, save, show."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from baselines import registry
from baselines.protocol import Misfit
from benchmarks import emulation_tables, records
from benchmarks.emulate_flags import Emulate
from benchmarks.emulate_settings import SETTINGS, settings_of
from benchmarks.emulation_search import (
    AT_MOST_FACTOR,
    Searched,
    Searcher,
    fastest,
    leanest,
    longest,
)
from benchmarks.emulator import Emulator
from benchmarks.selection import UsageError, flag
from benchmarks.supervisor import new_directory
from benchmarks.workloads import length_name
from sppo.errors import NotBuilt
from sppo.workload import Workload, parse_tokens


def search(verb: Emulate, workload: Workload, emulator: Emulator) -> int:
    """The exit code: 1 where nothing fits. Raises UsageError."""
    at_most_tokens = _at_most(verb, workload)
    if verb.ranks != "roles":
        raise UsageError(f"--ranks {verb.ranks}: a search emulates one rank of each role")
    try:
        directory = new_directory(
            emulator.parent, replace(workload, name=f"search-{verb.system}-{workload.name}")
        )
        searcher = Searcher(
            workload=workload,
            system=verb.system,
            emulator=replace(emulator, parent=directory, hasty=True),
        )
        found = _search(verb, searcher, at_most_tokens)
    except (Misfit, NotBuilt, ValueError, OSError) as error:
        raise UsageError(error) from None
    records.write_bytes(directory / "search.json", records.to_json(found))
    show(found, verb, directory)
    return 0 if found.found is not None else 1


def _at_most(verb: Emulate, workload: Workload) -> int:
    if verb.at_most is None:
        return AT_MOST_FACTOR * workload.sequence_tokens
    try:
        return parse_tokens(verb.at_most)
    except ValueError as error:
        raise UsageError(error) from None


def _search(verb: Emulate, searcher: Searcher, at_most_tokens: int) -> Searched:
    if not verb.tuned:
        return longest(searcher, [settings_of(verb, searcher.workload)], at_most_tokens)
    if verb.system == "sppo":
        raise UsageError("--tuned: SPPO's solver chooses its settings; leave it out")
    given = [flag(name) for name in SETTINGS if getattr(verb, name) not in (None, False)]
    if given:
        raise UsageError(f"--tuned searches the settings that {', '.join(given)} fixes: not both")
    if not verb.longest:
        return fastest(searcher)
    adapter = registry.load(verb.system)
    return longest(searcher, leanest(adapter, searcher.workload), at_most_tokens)


def show(found: Searched, verb: Emulate, directory: Path) -> None:
    """The answer, what was tried, and the emulation that answers."""
    if verb.json:
        print(records.to_json(found).decode(), end="")
    else:
        print("\n\n".join([answer(found), _tried(found)]))
        if found.found is not None:
            print("\n" + emulation_tables.text(found.found))
    print(f"saved to {directory}", file=sys.stderr)


def answer(found: Searched) -> str:
    """One line."""
    name = f"{found.system}, {found.workload.model.name}, {found.workload.cluster.ranks} ranks"
    if found.found is None:
        return f"{found.label}: {name}: nothing that was tried fits"
    settings = found.found.settings_text
    if found.longest_tokens is None:
        return f"{found.label}: {name}: fastest (simulated) of what fits: {settings}"
    end = f"{length_name(found.longest_tokens + found.step_tokens)} do not"
    if found.longest_tokens == found.at_most_tokens:
        end = "no more was asked for"
    return (
        f"{found.label}: {name}: {length_name(found.longest_tokens)} tokens fit, {end} ({settings})"
    )


def _tried(found: Searched) -> str:
    rows = [
        (
            trial.settings_text,
            length_name(trial.tokens),
            trial.status,
            emulation_tables.size(trial.peak_device_bytes),
            trial.limiting_role or "",
            "" if trial.step_seconds is None else f"{trial.step_seconds:,.1f}",
        )
        for trial in found.trials
    ]
    headers = (
        f"{found.label}, tried",
        "tokens",
        "status",
        "peak",
        "role",
        "simulated seconds a step",
    )
    return emulation_tables.table(headers, rows)
