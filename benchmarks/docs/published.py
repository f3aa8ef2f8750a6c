"""Tables of what `results/published/` holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.docs.markdown import factor, gib, interval, mib, spread, table
from benchmarks.records import store
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
            f"\n\n*{document['label']}: {', '.join(versions)}; commit {environment['commit'][:9]}.*"
        )
    commit = document["commit"][:9] + (" with changes" if document.get("dirty") else "")
    return f"\n\n*measured: {document['machine']}; commit {commit}; {document['date']}.*"


def device_limits() -> str:
    """SPPO's launches under device limits, on a quiet and on a busy machine."""
    quiet, busy = (read(f"proofs/device-limits-{load}")["limits"] for load in ("quiet", "busy"))
    rows = []
    for first, second in zip(quiet, busy, strict=True):
        assert first["limit_bytes"] == second["limit_bytes"]
        ratios = [*first["planned_over_seen"], *second["planned_over_seen"]]
        rows.append(
            [
                f"{first['limit_bytes'] // MIB} MiB",
                *(f"{limit['ok']} of {limit['launches']}" for limit in (first, second)),
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            ]
        )
    headers = ["device limit", "`ok`, quiet machine", "`ok`, busy machine"]
    return table([*headers, "untracked bytes, planned over measured"], rows)


def longest() -> str:
    """The longest sequence of each row of tiny-cpu under its device limit."""
    document = read("longest/tiny-cpu-136MiB")
    rows = [
        [
            row["row"],
            f"{row['longest_tokens']:,}",
            mib(row["peak_device_bytes"]),
            row["settings_text"],
        ]
        for row in document["rows"]
    ]
    return table(["row", "longest, tokens", "peak device", "settings"], rows) + origin(document)


def device_memory_sweep() -> str:
    """Step times of the systems of tiny-cpu, by device limit."""
    return _sweep("sweeps/tiny-cpu-device-memory", "device memory")


def sequences_sweep() -> str:
    """Step times of the systems of tiny-cpu without a limit, by sequences of a step."""
    return _sweep("sweeps/tiny-cpu-sequences-per-step", "sequences a step")


def _sweep(name: str, quantity: str) -> str:
    document = read(name)
    rows = []
    for value in document["values"]:
        of_system = {row["system"]: row for row in value["rows"]}
        systems = [of_system[system] for system in ("deepspeed", "megatron", "sppo")]
        rows.append([value["label"], *(_median(row) for row in systems), _over_best(systems)])
    headers = [quantity, "DeepSpeed, step s", "Megatron tuned, step s", "SPPO, step s"]
    return table([*headers, "speed of SPPO over the best peer"], rows) + origin(document)


def _over_best(systems: Iterable[Document]) -> str:
    """SPPO's speed over the best peer; the last of the systems is SPPO."""
    *peers, sppo = systems
    if any(row.get("timing_reason") and not row["sppo_speed_up"] for row in (*peers, sppo)):
        return "unsettled"
    claimed = [row for row in peers if row["sppo_speed_up"]]
    best = min(claimed, key=lambda row: float(row["sppo_speed_up"]), default=None)
    if best is None:
        return factor(None)
    ends = (best.get(f"sppo_speed_up_{end}") for end in ("low", "high"))
    return interval(best["sppo_speed_up"], *ends)


def _median(row: Document) -> str:
    return f"{row['step_seconds']['median']:.3f}" if row["step_seconds"] else str(row["status"])


def policies() -> str:
    """SPPO's policies in one layout, measured."""
    document = read("ablation/tiny-cpu-136MiB")
    rows = [
        [
            f"`{row['policy']}`",
            _median(row),
            interval(*(row.get(f"relative_time{end}") for end in ("", "_low", "_high"))),
            mib(row["peak_device_bytes"]),
            mib(row["offloaded_bytes"]),
            mib(row["recomputed_bytes"]),
        ]
        for row in document["policies"]
    ]
    headers = ["policy", "step, s", "time over `auto`", "peak device", "offloaded", "recomputed"]
    return table(headers, rows) + origin(document)


def _points(counted: bool) -> list[Document]:
    """Verdicts of the paper's 15 points that count, or the others."""
    verdicts = read("emulation/fig10-4-sequences")["verdicts"]
    return [verdict for verdict in verdicts if verdict["counted"] is counted]


def agreement() -> str:
    """Verdicts that agree with the paper, by row; the last row is the points of all systems."""
    verdicts = _points(counted=True)
    rows = [
        [name, _ratio([verdict["agrees"] for verdict in verdicts if verdict["reading"] == name])]
        for name in dict.fromkeys(verdict["reading"] for verdict in verdicts)
    ]
    rows.append(["all verdicts", _ratio([verdict["agrees"] for verdict in verdicts])])
    points: dict[tuple[str, str], bool] = {}
    for verdict in verdicts:
        key = verdict["model"], verdict["seq"]
        points[key] = points.get(key, True) and verdict["agrees"]
    rows.append(["points at which all systems agree", _ratio(points.values())])
    document = read("emulation/fig10-4-sequences")
    return table(["row", "verdicts as in the paper"], rows) + origin(document)


def _ratio(outcomes: Iterable[bool]) -> str:
    known = list(outcomes)
    return f"{sum(known)} of {len(known)}"


def disagreement() -> str:
    """Verdicts that differ from the paper's, of all rows."""
    rows = [
        [
            f"{verdict['model']}, {verdict['seq']}, {verdict['gpus']} GPUs",
            verdict["reading"] + ("" if verdict["counted"] else " (does not count)"),
            verdict["settings_text"],
            f"{verdict['status']}, {gib(verdict['peak_device_bytes'])}",
            verdict["says"],
        ]
        for verdict in (*_points(counted=True), *_points(counted=False))
        if verdict["agrees"] is False
    ]
    return table(["point", "row", "layout", "emulated", "paper"], rows)


def longest_of_paper() -> str:
    """The longest sequences of gpt-7b, emulated, beside the paper's fig. 12."""
    document = read("emulation/fig12-1-sequences")
    rows = []
    for row in document["longest"]:
        tokens, paper = row["longest_tokens"], row["says_tokens"]
        asked_more = "" if row["beyond"] else " or more"
        rows.append(
            [
                str(row["gpus"]),
                row["reading"],
                row["settings_text"],
                f"{length_name(tokens)}{asked_more}" if tokens else "cannot run",
                length_name(paper) if paper else "cannot run",
                factor(tokens / paper) if paper else "",
                _spread_of(row["peak_device_bytes"]),
                _spread_of(row["peak_host_bytes"]),
            ]
        )
    headers = ["GPUs", "row", "layout", "longest", "paper", "ratio", "device peak", "host peak"]
    return table(headers, rows) + origin(document)


def _spread_of(sizes: Mapping[str, int]) -> str:
    return spread(sizes.values()) if sizes else ""


def four_million_tokens() -> str:
    """Every role of SPPO's plan for gpt-7b, 4M tokens, 128 GPUs."""
    document = read(FOUR_MILLION)
    counted: dict[str, dict[str, int]] = {}
    for entry in document["planned"]:
        counted.setdefault(entry["role"], {})[entry["quantity"]] = entry["counted"]
    rows = []
    for role in document["roles"]:
        counts = counted[role["role"]]
        rows.append(
            [
                role["role"],
                str(role["ranks"]),
                gib(counts["peak_device_bytes"]),
                gib(counts["peak_host_bytes"]),
                gib(counts["activation_peak_bytes"]),
                gib(counts["copied_bytes"]),
                f"{counts['messages']}, {gib(counts['message_bytes'])}",
            ]
        )
    headers = ["role", "ranks", "device peak", "host peak", "saved activations, KV, dKV"]
    return table([*headers, "D2H and H2D", "sent messages"], rows) + origin(document)


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
    return table(["", profile, "paper, fig. 1"], rows)


def predicted() -> str:
    """What SPPO's plans predict, over what was counted, for every role of fig. 10 and 12."""
    entries: dict[str, list[Document]] = {}
    for name in ("fig10-4-sequences", "fig12-1-sequences"):
        document = read(f"emulation/{name}")
        for result in (*document["verdicts"], *document["longest"]):
            for entry in result["planned"]:
                entries.setdefault(entry["quantity"], []).append(entry)
    rows = []
    for quantity, group in entries.items():
        errors = [
            100 * (entry["planned"] / entry["counted"] - 1) for entry in group if entry["counted"]
        ]
        exact = sum(entry["planned"] == entry["counted"] for entry in group)
        worst = max(errors, default=0.0, key=abs)
        rows.append([f"`{quantity}`", f"{exact} of {len(group)}", f"{worst:+.2f} %"])
    return table(["quantity", "exact", "largest difference"], rows)


def one_million_tokens() -> str:
    """gpt-7b, 1M tokens, 32 GPUs, 4 sequences a step: bytes at the peak and simulated step."""
    document = read("emulation/fig10-4-sequences")
    rows = []
    for verdict in document["verdicts"]:
        if (verdict["model"], verdict["seq"]) == ("gpt-7b", "1024K"):
            sizes = verdict["at_peak_by_kind_bytes"]
            state = sum(sizes[kind] for kind in ("weights", "gradients", "optimizer"))
            rows.append(
                [
                    verdict["reading"],
                    verdict["settings_text"],
                    verdict["limiting_role"],
                    gib(verdict["peak_device_bytes"]),
                    gib(state),
                    gib(verdict["peak_device_bytes"] - state),
                    gib(verdict["peak_host_bytes"]),
                    f"{verdict['step_seconds']:,.1f}",
                ]
            )
    headers = ["row", "layout", "fullest role", "device peak", "weights, gradients, optimizer"]
    headers += ["all else", "host peak", "step, simulated, s"]
    return table(headers, rows) + origin(document)
