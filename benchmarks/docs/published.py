"""Tables of what `results/published/` holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from benchmarks.docs.markdown import Columns, factor, gib, mib, rows_table, spread, table
from benchmarks.records import store
from benchmarks.reporting.text_table import interval
from sppo.config.sizes import MIB, length_name

Document = Mapping[str, Any]

FOUR_MILLION = "emulation/gpt-7b-4m-128xa100-sppo"


def read(name: str) -> Document:
    """A JSON file of results/published/. Raises OSError if the file is not there."""
    path = store.published_directory() / f"{name}.json"
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def origin(document: Document) -> str:
    """Machine or versions, commit and date, as a line under a table."""
    if "environment" in document:
        environment = document["environment"]
        libraries = ("torch", "megatron-core", "deepspeed")
        versions = (f"{name} {environment['versions'][name]}" for name in libraries)
        return (
            f"\n\n{document['label'].capitalize()}: {', '.join(versions)}; "
            f"commit {environment['commit'][:9]}."
        )
    commit = document["commit"][:9] + (" with changes" if document.get("dirty") else "")
    return f"\n\nMeasured: {document['machine']}; commit {commit}; {document['date']}."


def device_limits() -> str:
    """SPPO's launches under device limits, on a quiet and on a busy machine."""
    quiet, busy = (read(f"proofs/device-limits-{load}")["limits"] for load in ("quiet", "busy"))
    limits = list(zip(quiet, busy, strict=True))
    assert all(first["limit_bytes"] == second["limit_bytes"] for first, second in limits)
    columns: Columns = {
        "device limit": lambda limit: f"{limit[0]['limit_bytes'] // MIB} MiB",
        "`ok`, quiet machine": lambda limit: "{ok} of {launches}".format(**limit[0]),
        "`ok`, busy machine": lambda limit: "{ok} of {launches}".format(**limit[1]),
        "untracked bytes, planned over measured": _ratios,
    }
    return table(columns, limits)


def _ratios(limit: tuple[Document, Document]) -> str:
    ratios = [ratio for load in limit for ratio in load["planned_over_seen"]]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def planted_faults() -> str:
    """Faults planted in a copy of the tree, and the line by which `sppo-bench check` names each."""
    document = read("proofs/planted-faults")
    columns: Columns = {
        "planted fault": itemgetter("fault"),
        "caught": lambda fault: "yes" if fault["caught"] else "no",
        "exit code": lambda fault: str(fault["exit_code"]),
        "lines": lambda fault: str(fault["lines"]),
        "the line that names it begins": lambda fault: f"`{_key_and_change(fault['line'])}`",
    }
    environment = document["environment"]
    commit = environment["commit"][:9] + (" with changes" if environment["dirty"] else "")
    unchanged = f"Exit code of the unchanged tree: {document['unchanged_exit_code']}."
    return f"{table(columns, document['faults'])}\n\n{unchanged} Commit {commit}."


def _key_and_change(line: str) -> str:
    """Of a printed difference the key, both values and the change."""
    *_, key, change = line.partition("; ")[0].split(": ")
    return f"{key}: {change}"


def longest() -> str:
    """The longest sequence of each row of tiny-cpu under its device limit."""
    document = read("longest/tiny-cpu-136MiB")
    columns: Columns = {
        "row": itemgetter("row"),
        "longest, tokens": lambda row: f"{row['longest_tokens']:,}",
        "device peak": lambda row: mib(row["peak_device_bytes"]),
        "settings": itemgetter("settings_text"),
    }
    return table(columns, document["rows"]) + origin(document)


def median_step(row: Document) -> str:
    """The median step in seconds of a row; its status without one."""
    return f"{row['step_seconds']['median']:.3f}" if row["step_seconds"] else str(row["status"])


def policies() -> str:
    """SPPO's policies in one layout, measured."""
    document = read("ablation/tiny-cpu-136MiB")
    columns: Columns = {
        "policy": lambda row: f"`{row['policy']}`",
        "step, s": median_step,
        "time over `auto`": lambda row: interval(
            *(row.get(f"relative_time{end}") for end in ("", "_low", "_high"))
        ),
        "device peak": lambda row: mib(row["peak_device_bytes"]),
        "offloaded": lambda row: mib(row["offloaded_bytes"]),
        "recomputed": lambda row: mib(row["recomputed_bytes"]),
    }
    return table(columns, document["policies"]) + origin(document)


def _points(counted: bool) -> list[Document]:
    """Verdicts of the paper's 15 points that count, or the others."""
    verdicts = read("emulation/fig10-4-sequences")["verdicts"]
    return [verdict for verdict in verdicts if verdict["counted"] is counted]


def agreement() -> str:
    """Verdicts that agree with the paper, by row; the last row is the points of all systems."""
    by_row: dict[str, list[bool]] = {}
    points: dict[tuple[str, str], bool] = {}
    for verdict in _points(counted=True):
        by_row.setdefault(verdict["reading"], []).append(verdict["agrees"])
        key = verdict["model"], verdict["seq"]
        points[key] = points.get(key, True) and verdict["agrees"]
    groups = {
        **by_row,
        "all verdicts": [agrees for row in by_row.values() for agrees in row],
        "points at which all systems agree": list(points.values()),
    }
    columns: Columns = {
        "row": itemgetter(0),
        "verdicts as in the paper": lambda group: f"{sum(group[1])} of {len(group[1])}",
    }
    return table(columns, groups.items()) + origin(read("emulation/fig10-4-sequences"))


def disagreement() -> str:
    """Verdicts that differ from the paper's, of all rows."""
    verdicts = [*_points(counted=True), *_points(counted=False)]
    columns: Columns = {
        "point": lambda verdict: "{model}, {seq}, {gpus} GPUs".format(**verdict),
        "row": lambda verdict: verdict["reading"] + ("" if verdict["counted"] else " (excluded)"),
        "settings": itemgetter("settings_text"),
        "emulated": lambda verdict: f"{verdict['status']}, {gib(verdict['peak_device_bytes'])}",
        "paper": itemgetter("says"),
    }
    return table(columns, [verdict for verdict in verdicts if verdict["agrees"] is False])


def paper_items() -> str:
    """The committed pages of the paper's figures and tables, and how near ours is."""
    path = store.published_directory().parent / "paper" / "pages" / "index.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    columns: Columns = {
        "item": lambda item: "[{title}](../results/paper/pages/{item}.md)".format(**item),
        "what is compared": itemgetter("compares"),
        "agreement": itemgetter("agreement"),
        "labels": lambda item: ", ".join(item["labels"]),
    }
    return (
        table(columns, document["items"]) + f"\n\nCommit {document['environment']['commit'][:9]}."
    )


def longest_of_paper() -> str:
    """The longest sequences of gpt-7b, emulated, beside the paper's fig. 12."""
    document = read("emulation/fig12-1-sequences")
    columns: Columns = {
        "GPUs": lambda row: str(row["gpus"]),
        "row": itemgetter("reading"),
        "settings": itemgetter("settings_text"),
        "longest": lambda row: _length(row["longest_tokens"], "" if row["beyond"] else " or more"),
        "paper": lambda row: _length(row["says_tokens"]),
        "ratio": lambda row: (
            factor(row["longest_tokens"] / row["says_tokens"]) if row["says_tokens"] else ""
        ),
        "device peak": lambda row: spread(row["peak_device_bytes"].values()),
        "host peak": lambda row: spread(row["peak_host_bytes"].values()),
    }
    return table(columns, document["longest"]) + origin(document)


def _length(tokens: int, more: str = "") -> str:
    return f"{length_name(tokens)}{more}" if tokens else "cannot run"


def four_million_tokens() -> str:
    """Every role of SPPO's plan for gpt-7b, 4M tokens, 128 GPUs."""
    document = read(FOUR_MILLION)
    roles: dict[str, dict[str, Any]] = {role["role"]: {**role} for role in document["roles"]}
    for entry in document["planned"]:
        roles[entry["role"]][entry["quantity"]] = entry["counted"]
    columns: Columns = {
        "role": itemgetter("role"),
        "ranks": lambda role: str(role["ranks"]),
        "device peak": lambda role: gib(role["peak_device_bytes"]),
        "host peak": lambda role: gib(role["peak_host_bytes"]),
        "saved tensors, KV, dKV": lambda role: gib(role["activation_peak_bytes"]),
        "D2H and H2D": lambda role: gib(role["copied_bytes"]),
        "sent messages": lambda role: f"{role['messages']}, {gib(role['message_bytes'])}",
    }
    return table(columns, roles.values()) + origin(document)


def four_million_tokens_time() -> str:
    """The simulated step of the same plan, and the paper's MFU (fig. 1)."""
    time = read(FOUR_MILLION)["simulated_time"]
    path = store.published_directory().parent / "paper" / "reported.json"
    reported = json.loads(path.read_text(encoding="utf-8"))
    paper_mfu = reported["implied_mfu_causal_312tflops"]["4M/128"]
    rows = [
        ["step", f"{time['step_seconds']:.1f} s", ""],
        ["tokens per second and GPU", f"{time['tokens_per_second_per_gpu']:.1f}", ""],
        ["MFU, causal", f"{100 * time['mfu']:.1f} %", f"{100 * paper_mfu:.1f} %"],
    ]
    profile = f"simulated, `{time['profile']}` ({time['profile_kind']})"
    return rows_table(["", profile, "paper, fig. 1"], rows)


def predicted() -> str:
    """What SPPO's plans predict, over what was counted, for every role of fig. 10 and 12."""
    entries: dict[str, list[Document]] = {}
    for name in ("fig10-4-sequences", "fig12-1-sequences"):
        document = read(f"emulation/{name}")
        for result in (*document["verdicts"], *document["longest"]):
            for entry in result["planned"]:
                entries.setdefault(entry["quantity"], []).append(entry)
    columns: Columns = {
        "quantity": lambda group: f"`{group[0]['quantity']}`",
        "exact": lambda group: (
            f"{sum(entry['planned'] == entry['counted'] for entry in group)} of {len(group)}"
        ),
        "largest difference": _largest_difference,
    }
    return table(columns, entries.values())


def _largest_difference(entries: Sequence[Document]) -> str:
    counted = [entry for entry in entries if entry["counted"]]
    errors = [100 * (entry["planned"] / entry["counted"] - 1) for entry in counted]
    return f"{max(errors, default=0.0, key=abs):+.2f} %"


def one_million_tokens() -> str:
    """gpt-7b, 1M tokens, 32 GPUs, 4 sequences a step: bytes at the peak and simulated step."""
    document = read("emulation/fig10-4-sequences")
    columns: Columns = {
        "row": itemgetter("reading"),
        "settings": itemgetter("settings_text"),
        "fullest role": itemgetter("limiting_role"),
        "device peak": lambda verdict: gib(verdict["peak_device_bytes"]),
        "weights, gradients, optimizer": lambda verdict: gib(_state_bytes(verdict)),
        "saved tensors, KV, temporary": lambda verdict: gib(
            verdict["peak_device_bytes"] - _state_bytes(verdict)
        ),
        "host peak": lambda verdict: gib(verdict["peak_host_bytes"]),
        "step, simulated, s": lambda verdict: f"{verdict['step_seconds']:,.1f}",
    }
    verdicts = [
        verdict
        for verdict in document["verdicts"]
        if (verdict["model"], verdict["seq"]) == ("gpt-7b", "1024K")
    ]
    return table(columns, verdicts) + origin(document)


def _state_bytes(verdict: Document) -> int:
    sizes: dict[str, int] = verdict["at_peak_by_kind_bytes"]
    return sum(sizes[kind] for kind in ("weights", "gradients", "optimizer"))
