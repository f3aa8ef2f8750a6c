"""`sppo-bench longest`: check what was asked, search, save and show it."""

from __future__ import annotations

import sys

import msgspec

from benchmarks.commands.arguments import UsageError, check_machine, find_workload
from benchmarks.commands.measuring.flags import Longest
from benchmarks.commands.output import show_json
from benchmarks.records import store
from benchmarks.rows.row import find
from benchmarks.studies import longest_result
from sppo.config.sizes import parse_tokens


def longest(verb: Longest) -> int:
    """Search every row; what ends in no result exits 1 and is not published.

    Raises UsageError.
    """
    from benchmarks.launch import run
    from benchmarks.launch.progress import display
    from benchmarks.studies import longest as search

    workload = find_workload(verb.workload, verb.device_memory)
    if workload.device_memory_bytes is None:
        raise UsageError(
            f"{workload.name} has no device limit, so no longest: give --device-memory SIZE"
        )
    parent = verb.output or store.results_directory() / "runs"
    try:
        rows = find([name for item in verb.systems for name in item.split(",") if name])
        options = run.Options(
            launches=1, warmup_steps=0, measured_steps=0, time_limit_seconds=verb.time_limit
        )
        check_machine(workload)
        at_most = None if verb.at_most is None else parse_tokens(verb.at_most)
        with display() as shown:
            found, done, directory = search.search(workload, rows, parent, options, shown, at_most)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(error) from None
    code = run.exit_code(done)
    path = longest_result.save(found, directory / "longest.json")
    published = longest_result.path_of(found.workload, found.device_memory_bytes)
    lost = longest_result.lost_rows(found, published)
    if code == 0 and not lost:
        path = longest_result.save(found, published)
    elif lost:
        print(f"not published: {published.name} has {', '.join(lost)} too", file=sys.stderr)
    if verb.json:
        show_json(msgspec.to_builtins(found.rows))
    else:
        print(longest_result.text(found))
    print(f"\nsaved to {path}; records: {directory}", file=sys.stderr)
    return code
