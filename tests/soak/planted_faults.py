"""Does `sppo-bench check` catch small faults? Each is planted in a copy of the tree, then checked.

    python -m tests.soak.planted_faults --output results/published/proofs/planted-faults.json

The check of the unchanged copy must exit 0. That of each fault must exit 1 and name the fault's
area in the lines that it prints. Exits 1 if a fault was missed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import CHECKOUT, describe_environment
from benchmarks.records import store
from benchmarks.reporting.text_table import rows_table

FOLDERS = ("sppo", "baselines", "benchmarks", "results/expected", "results/paper")
FILES = ("pyproject.toml", "LICENSE")
"""What the check reads of a checkout."""

LINES = 10
"""The most lines about one change."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`before`, which is in the file once, becomes `after`.

    area: a pattern of a line that tells where to look. topics: the shortest check that covers it.
    """

    name: str
    file: str
    before: str
    after: str
    area: str
    topics: str


FAULTS = (
    Fault(
        name="1 % more of a rate in one hardware profile",
        file="sppo/config/hardware_profiles/a100-80g.json",
        before='"dense_forward": 219000000000000.0',
        after='"dense_forward": 221190000000000.0',
        area=r"plans-\S+: .*makespan",
        topics="plans-gpu-options",
    ),
    Fault(
        name="1 % more of a simulated cost in code",
        file="sppo/cost_model/times.py",
        before="round(layers * self.backward * 1e9)",
        after="round(layers * self.backward * 1.01e9)",
        area=r"plans-\S+: .*makespan.* \(\+",
        topics="plans-tiny-cpu",
    ),
    Fault(
        name="one message more in a step",
        file="sppo/engine/trainer.py",
        before="        self.groups.everyone.all_reduce(totals)\n",
        after="        self.groups.everyone.all_reduce(totals.clone())\n"
        "        self.groups.everyone.all_reduce(totals)\n",
        area=r"sppo, .*all_?reduce",
        topics="emulations",
    ),
    Fault(
        name="1 % more bytes of offload",
        file="sppo/cost_model/plan_costs.py",
        before="    return sizes\n",
        after="    return [size * 101 // 100 for size in sizes]\n",
        area=r"offloaded_bytes.* \(\+1 %\)",
        topics="plans-tiny-cpu",
    ),
    Fault(
        name="one subsequence recomputes one more tensor",
        file="sppo/planner/activations/policies.py",
        before="        return [*offloaded, decision]\n",
        after='        more = Decision(recompute=tuple({*decision.recompute, "norm1.output"}))\n'
        "        return [*offloaded, more]\n",
        area=r"decisions\.recomputed",
        topics="plans-tiny-cpu",
    ),
    Fault(
        name="a second copy of a buffer",
        file="sppo/engine/optimizer.py",
        before="        precision = weights.vector_gradients.dtype\n",
        after="        precision = weights.vector_gradients.dtype\n"
        "        self._copy = weights.matrix_gradients.clone()\n",
        area=r"sppo, .*peak_device_bytes.* \(\+",
        topics="emulations",
    ),
    Fault(
        name="a quadratic loop in the planner",
        file="sppo/cost_model/plan_costs.py",
        before="        saved.append(shape.kept_bytes(_own_tokens(plan, number, index), names))\n",
        after="        for earlier in range(index + 1):\n"
        "            kept = shape.kept_bytes(_own_tokens(plan, number, earlier), names)\n"
        "        saved.append(kept)\n",
        area=r"calls-planning: .*calls\.sppo\.",
        topics="calls-planning",
    ),
    Fault(
        name="a host sync in the engine's step",
        file="sppo/engine/engine.py",
        before="        output = part.forward(sequence, index, x, targets, self._scale)\n",
        after="        output = part.forward(sequence, index, x, targets, self._scale)\n"
        "        output.sum().item()\n",
        area=r"sppo, .*operators\.aten\.(_local_scalar_dense|sum)",
        topics="emulations",
    ),
    Fault(
        name="a peer's setting changed",
        file="baselines/deepspeed/engine_config.py",
        before='        "reduce_bucket_size": min(500_000_000, bucket),\n',
        after='        "reduce_bucket_size": min(500_000_000, bucket // 2),\n',
        area=r"(emulations|gloo-mini-cpu): deepspeed, ",
        topics="emulations",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the check said of a tree."""

    exit_code: int
    lines: Sequence[str]
    errors: str


@contextmanager
def tree(fault: Fault | None = None) -> Iterator[Path]:
    """A copy of this checkout, with the fault planted."""
    with tempfile.TemporaryDirectory() as parent:
        copy = Path(parent)
        skipped = shutil.ignore_patterns("__pycache__")
        for folder in FOLDERS:
            shutil.copytree(CHECKOUT / folder, copy / folder, ignore=skipped)
        for file in FILES:
            shutil.copy(CHECKOUT / file, copy / file)
        if fault is not None:
            path = copy / fault.file
            path.write_text(planted(path.read_text(), fault))
        yield copy


def planted(text: str, fault: Fault) -> str:
    """The file's text with the fault. Raises ValueError where its place is not there once."""
    if text.count(fault.before) != 1:
        raise ValueError(f"{fault.name}: {fault.file} has changed: plant the fault elsewhere")
    return text.replace(fault.before, fault.after)


def check(folder: Path, topics: str) -> Checked:
    """`sppo-bench check` of a tree."""
    command = [sys.executable, "-P", "-m", "benchmarks", "check"]
    done = subprocess.run(
        [*command, *(["--topics", topics] if topics else [])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    return Checked(exit_code=done.returncode, lines=lines, errors=done.stderr)


def caught(fault: Fault, checked: Checked) -> bool:
    """Whether the check failed, and told where to look, and how to accept, in few lines."""
    *changes, _, accept = checked.lines or ("", "")
    return (
        checked.exit_code == 1
        and len(changes) <= LINES
        and accept.startswith("accept: sppo-bench check --topics ")
        and any(re.search(fault.area, line) for line in changes)
    )


def entry(fault: Fault, *, whole: bool) -> dict[str, Any]:
    """One fault, planted and checked."""
    topics = "" if whole else fault.topics
    with tree(fault) as folder:
        checked = check(folder, topics)
    naming = [line for line in checked.lines if re.search(fault.area, line)]
    return {
        "fault": fault.name,
        "file": fault.file,
        "topics": topics or "all",
        "exit_code": checked.exit_code,
        "caught": caught(fault, checked),
        "lines": max(0, len(checked.lines) - 2),
        "line": naming[0] if naming else "",
    }


def main() -> int:
    """Check the unchanged copy and every fault; print a table, and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the topics of each fault")
    parser.add_argument("--output", type=Path, help="file of the proof")
    asked = parser.parse_args()
    environment = describe_environment()
    topics = ",".join(dict.fromkeys(fault.topics for fault in FAULTS)) if asked.quick else ""
    with tree() as folder:
        unchanged = check(folder, topics)
    print("unchanged", unchanged.exit_code, *unchanged.lines, flush=True)
    entries = []
    for fault in FAULTS:
        entries.append(entry(fault, whole=not asked.quick))
        print(entries[-1], flush=True)
    headers = ("fault", "caught", "exit_code", "lines")
    print(rows_table(headers, [[str(row[name]) for name in headers] for row in entries]))
    if asked.output is not None:
        store.save(
            asked.output,
            {
                "schema": "sppo-proof/1",
                "what": "faults planted in a copy of the tree, and `sppo-bench check`",
                "unchanged_exit_code": unchanged.exit_code,
                "caught": sum(row["caught"] for row in entries),
                "faults": entries,
                "environment": environment,
            },
        )
    return int(unchanged.exit_code != 0 or not all(row["caught"] for row in entries))


if __name__ == "__main__":
    sys.exit(main())
