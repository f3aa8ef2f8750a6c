"""`sppo-bench emulate --longest` and `--tuned`: search, save, show."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import msgspec

from baselines.protocol import Misfit
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.output import show
from benchmarks.emulation import search as searches
from benchmarks.emulation import tables
from benchmarks.emulation.depth.grid import search_grid
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.search import STEP_TOKENS, Searcher, SearchResult
from benchmarks.records import store
from benchmarks.records.machine_errors import records_so_far
from benchmarks.tracking.searches import SearchFeed, SearchLines, end_search
from benchmarks.tracking.tracked_run import TrackedRun
from sppo.config.sizes import length_name, parse_tokens
from sppo.config.workload import Workload


def at_most_tokens(text: str | None, workload: Workload) -> int:
    """The end of the search in tokens, of --at-most. Raises UsageError."""
    if text is None:
        return searches.AT_MOST_FACTOR * max(workload.sequence_tokens, STEP_TOKENS)
    with usage_errors():
        tokens = parse_tokens(text)
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
    live: TrackedRun,
    *,
    longest_up_to: int | None,
    budget_seconds: float | None,
    as_json: bool,
    publishes: bool = False,
) -> int:
    """The exit code: 1 where nothing fits, or a trial broke. Raises UsageError.

    emulator: its folder gets search.json. live: gets every trial. settings: None to search the
    system's grid. longest_up_to: the end of the search for the longest sequence, in tokens; None to
    search the fastest settings at the workload's length. budget_seconds: of a search of the grid
    (None: any). publishes: whether an answer goes to results/published/emulation/.
    """
    directory = emulator.parent
    with usage_errors(Misfit, OSError), records_so_far(directory):
        searcher = Searcher(
            workload=workload,
            system=system,
            emulator=replace(emulator, stop_at_first_oom=True),
        )
        feed = SearchFeed(run=live)
        lines = SearchLines(lambda: feed(searcher.trials))
        searcher.emulator = replace(searcher.emulator, progress=lines)
        if settings is not None:
            assert longest_up_to is not None, "given settings have no fastest"
            result = searches.longest(searcher, [settings], longest_up_to)
        else:
            result = search_grid(searcher, longest_up_to, budget_seconds)
        store.save(directory / "search.json", result)
    code = 0 if result.found is not None and not result.unanswered else 1
    end_search(live, result, code)
    parts = [tables.answer(result), tables.trials(result), *tables.remarks(result)]
    if result.found is not None:
        parts.append(tables.text(result.found))
    show(as_json, result, "\n\n".join(parts))
    print(f"saved to {directory}", file=sys.stderr)
    if publishes:
        with usage_errors(OSError), records_so_far(directory):
            publish(result, code)
    return code


def publish(result: SearchResult, code: int) -> None:
    """Save the answer for the rows of `run`; say why where there is none. Raises OSError.

    Without the folder of its files, which is this machine's.
    """
    if code or result.found is None:
        print("not published: the search has no answer", file=sys.stderr)
        return
    found = msgspec.structs.replace(result.found, directory="")
    result = msgspec.structs.replace(result, found=found)
    workload, count = result.workload, result.workload.sequences_per_step
    sequences = f"-{count}-sequences" if count > 1 else ""
    name = f"{workload.name}{sequences}-{result.system}-tuned.json"
    path = store.save(store.published_directory() / "emulation" / name, result)
    print(f"published as {path}", file=sys.stderr)
