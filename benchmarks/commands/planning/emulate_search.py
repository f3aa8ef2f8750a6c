"""`sppo-bench emulate --longest` and `--tuned`: search, save, show."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from baselines import registry
from baselines.protocol import Misfit, Planner
from benchmarks.commands.arguments import UsageError, flag
from benchmarks.commands.planning.emulate_settings import SETTINGS, settings_of
from benchmarks.commands.planning.flags import Emulate
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


def search(verb: Emulate, workload: Workload, emulator: Emulator) -> int:
    """The exit code: 1 where nothing fits, or something broke. Raises UsageError."""
    at_most_tokens = _at_most(verb, workload)
    if verb.ranks != "roles":
        raise UsageError(f"--ranks {verb.ranks}: a search emulates one rank of each role")
    settings = None if verb.tuned else settings_of(verb, workload)
    _check_tuned(verb)
    try:
        directory = new_directory(
            emulator.parent, replace(workload, name=f"search-{verb.system}-{workload.name}")
        )
        searcher = Searcher(
            workload=workload,
            system=verb.system,
            emulator=replace(emulator, parent=directory, hasty=True),
        )
        found = _search(searcher, verb, settings, at_most_tokens)
    except (Misfit, NotBuilt, ValueError, OSError) as error:
        raise UsageError(error) from None
    store.write_bytes(directory / "search.json", store.to_json(found))
    show(found, verb, directory)
    return 0 if found.found is not None and not found.unanswered else 1


def _at_most(verb: Emulate, workload: Workload) -> int:
    if verb.at_most is None:
        return AT_MOST_FACTOR * max(workload.sequence_tokens, STEP_TOKENS)
    try:
        tokens = parse_tokens(verb.at_most)
    except ValueError as error:
        raise UsageError(error) from None
    if tokens < STEP_TOKENS:
        raise UsageError(
            f"--at-most {verb.at_most}: lengths are multiples of {length_name(STEP_TOKENS)}, give "
            "at least that"
        )
    return tokens


def _check_tuned(verb: Emulate) -> None:
    """Raise UsageError if a grid is to be searched that is not there, or is fixed."""
    if not verb.tuned:
        return
    known = (*registry.SYSTEMS, *registry.installed())
    if verb.system not in known:
        raise UsageError(f"unknown system {verb.system!r}; known: {', '.join(known)}")
    if isinstance(registry.load(verb.system), Planner):
        name = verb.system.upper()
        raise UsageError(f"--tuned: {name}'s solver chooses its settings; leave it out")
    values = {name: getattr(verb, name) for name in SETTINGS}
    given = [
        flag(name) for name, value in values.items() if value is not None and value is not False
    ]
    if given:
        raise UsageError(f"--tuned searches the settings that {', '.join(given)} fixes: not both")


def _search(searcher: Searcher, verb: Emulate, settings: Any, at_most_tokens: int) -> Searched:
    """`settings`: those of the flags, None where the grid is searched."""
    if settings is not None:
        return longest(searcher, [settings], at_most_tokens)
    if not verb.longest:
        return fastest(searcher)
    adapter = registry.load(verb.system)
    return longest(searcher, leanest(adapter, searcher.workload), at_most_tokens)


def show(found: Searched, verb: Emulate, directory: Path) -> None:
    """The answer, what was tried, and the emulation that answers."""
    if verb.json:
        print(store.to_json(found).decode(), end="")
    else:
        parts = [answer(found), tried(found)]
        if found.unanswered:
            parts.append(f"not answered, so more may fit: {found.unanswered}")
        print("\n\n".join(parts))
        if found.found is not None:
            print("\n" + tables.text(found.found))
    print(f"saved to {directory}", file=sys.stderr)
