"""Pages with generated tables: where a table stands, and its replacement."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.docs import (
    choices,
    comparing,
    comparison,
    peers,
    planned,
    profiles,
    proofs,
    published,
    sweeps,
    workloads,
)

TABLES: Mapping[str, Callable[[], str]] = {
    "readme-136MiB": partial(comparison.comparison, "tiny-cpu-136MiB"),
    "readme-none": partial(comparison.comparison, "tiny-cpu-none"),
    "hardware-profiles": profiles.profiles,
    "hardware-proofs": published.device_limits,
    "msp-unit-costs": planned.unit_costs,
    "plan-alpha": planned.offload_share,
    "sweeps-longest": published.longest,
    "sweeps-device-memory": partial(sweeps.sweep, "tiny-cpu-device-memory", "device memory"),
    "sweeps-sequences": partial(sweeps.sweep, "tiny-cpu-sequences-per-step", "sequences a step"),
    "sweeps-policies": published.policies,
    "sweeps-simulated-ablation": planned.simulated_ablation,
    "paper-items": published.paper_items,
    "paper-agreement": published.agreement,
    "paper-disagreement": published.disagreement,
    "paper-longest": published.longest_of_paper,
    "paper-4m": published.four_million_tokens,
    "paper-4m-time": published.four_million_tokens_time,
    "paper-predicted": published.predicted,
    "peers-grids": peers.measured_grids,
    "peers-1m": partial(peers.large_point, 32),
    "peers-2m": partial(peers.large_point, 64),
    "peers-4m": partial(peers.large_point, 128),
    "peers-points": peers.paper_points,
    "peers-points-paper": peers.as_the_paper_ran_them,
    "emulation-1m": published.one_million_tokens,
    "regression-planted-faults": published.planted_faults,
    "compare-simulated": comparing.simulated,
    "compare-recorded": comparing.recorded,
    "compare-live": comparing.live,
    "timing-noise": proofs.noise,
    "gpu-cuda-cases": proofs.cuda_cases,
    "gpu-cuda-faults": proofs.cuda_faults,
    "workloads": workloads.workloads,
    "models": workloads.models,
    "emulated-choices": choices.emulated,
}
"""Name of a marker -> its table in Markdown."""

BLOCK = re.compile(
    r"(?P<begin>^<!-- begin: (?P<name>[\w-]+) -->\n)(?P<table>.*?)(?P<end>^<!-- end -->$)",
    re.MULTILINE | re.DOTALL,
)
MARKER = re.compile(r"^<!-- (?:begin|end)\b.*$", re.MULTILINE)


def names(text: str) -> list[str]:
    """Names of the tables of a page, in order. Raises ValueError on a marker without its pair."""
    blocks = list(BLOCK.finditer(text))
    if 2 * len(blocks) != len(MARKER.findall(text)):
        raise ValueError("a marker has no pair: write <!-- begin: NAME -->, a table, <!-- end -->")
    return [block["name"] for block in blocks]


def generated(text: str, tables: Mapping[str, Callable[[], str]] = TABLES) -> str:
    """The page with its tables made anew. Raises ValueError on an unknown name."""
    for name in names(text):
        if name not in tables:
            raise ValueError(f"no table is named {name!r}: take one of {', '.join(tables)}")
    return BLOCK.sub(
        lambda block: block["begin"] + tables[block["name"]]() + "\n" + block["end"], text
    )


def update(folder: Path, write: bool) -> list[str]:
    """Names of the pages whose tables were old; `write` replaces them. Raises ValueError."""
    old = []
    for path in (folder.parent / "README.md", *sorted(folder.glob("*.md"))):
        if not path.is_file():
            continue
        before = path.read_text(encoding="utf-8")
        try:
            after = generated(before)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        if after != before:
            old.append(path.name)
            if write:
                path.write_text(after, encoding="utf-8")
    return old
