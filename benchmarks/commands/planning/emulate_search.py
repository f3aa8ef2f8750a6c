"""`sppo-bench emulate --longest` and `--tuned`: search, save, show."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from baselines import registry
from baselines.protocol import Misfit
from benchmarks.commands.arguments import UsageError
from benchmarks.emulation import tables
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.search import (
    AT_MOST_FACTOR,
    STEP_TOKENS,
    Searched,
    Searcher,
    fastest,
    leanest,
    longest,
)
from benchmarks.emulation.tables import answer, tried
from benchmarks.launch.run import new_directory
from benchmarks.records import store
from sppo.config.errors import NotBuilt
from sppo.config.sizes import length_name, parse_tokens
from sppo.config.workload import Workload


def at_most_tokens(text: str | None, workload: Workload) -> int:
    """The longest length to ask for, of --at-most. Raises UsageError."""
    if text is None:
        return AT_MOST_FACTOR * max(workload.sequence_tokens, STEP_TOKENS)
    try:
        tokens = parse_tokens(text)
    except ValueError as error:
        raise UsageError(error) from None
    if tokens < STEP_TOKENS:
        raise UsageError(
            f"--at-most {text}: lengths are multiples of {length_name(STEP_TOKENS)}, give "
            "at least that"
        )
    return tokens


def search(
    workload: Workload,
    system: str,
    settings: Any,
    emulator: Emulator,
    *,
    longest_up_to: int | None,
    as_json: bool,
) -> int:
    """The exit code: 1 where nothing fits, or something broke. Raises UsageError.

    settings: None where the system's grid is searched. longest_up_to: tokens of the longest
    sequence to ask for; None where the fastest settings are searched at the workload's length.
    """
    try:
        directory = new_directory(
            emulator.parent, replace(workload, name=f"search-{system}-{workload.name}")
        )
        searcher = Searcher(
            workload=workload,
            system=system,
            emulator=replace(emulator, parent=directory, hasty=True),
        )
        searched = _search(searcher, settings, longest_up_to)
    except (Misfit, NotBuilt, ValueError, OSError) as error:
        raise UsageError(error) from None
    store.write_bytes(directory / "search.json", store.to_json(searched))
    show(searched, directory, as_json)
    return 0 if searched.found is not None and not searched.unanswered else 1


def _search(searcher: Searcher, settings: Any, longest_up_to: int | None) -> Searched:
    if longest_up_to is None:
        return fastest(searcher)
    if settings is not None:
        return longest(searcher, [settings], longest_up_to)
    adapter = registry.load(searcher.system)
    return longest(searcher, leanest(adapter, searcher.workload), longest_up_to)


def show(searched: Searched, directory: Path, as_json: bool) -> None:
    """Print the answer, what was tried, and the emulation that answers."""
    if as_json:
        print(store.to_json(searched).decode(), end="")
    else:
        parts = [answer(searched), tried(searched)]
        if searched.unanswered:
            parts.append(f"not answered, so more may fit: {searched.unanswered}")
        print("\n\n".join(parts))
        if searched.found is not None:
            print("\n" + tables.text(searched.found))
    print(f"saved to {directory}", file=sys.stderr)
