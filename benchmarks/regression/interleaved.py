"""Time one command in two source trees, in turns A B B A: which tree is faster, by how much.

    python -m benchmarks.regression.interleaved TREE_A TREE_B --pairs 20 -- python -m benchmarks ...

Each run has its tree as working directory and in front of PYTHONPATH. The value is the wall time of
the command, or with --json-key a number that the command prints as JSON. Without a command the
value is the measured step of tiny-cpu under SPPO. Machines drift: compare only runs in turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional, arg

STEP_COMMAND = (
    *("python", "-m", "benchmarks", "run", "tiny-cpu", "--systems", "sppo"),
    *("--launches", "1", "--no-wandb", "--json"),
)
STEP_KEY = "rows.0.step_seconds_median"

LAST_WORDS = 400
"""Characters of a failed command's output that are shown."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The values of A and B, in the order of their runs. Ratios are B over A; below 1 B is less."""

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def of_minima(self) -> float:
        """Minimum of B over minimum of A."""
        return min(self.b) / min(self.a)

    @property
    def of_medians(self) -> float:
        """Median of B over median of A."""
        return statistics.median(self.b) / statistics.median(self.a)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the ratios within pairs."""
        ratios = np.divide(self.b, self.a)
        return float(np.quantile(ratios, 0.25)), float(np.quantile(ratios, 0.75))

    def __str__(self) -> str:
        low, high = self.quartiles
        rows = [
            f"{name}: least {min(values):.6g}, median {statistics.median(values):.6g}\n"
            for name, values in (("A", self.a), ("B", self.b))
        ]
        return (
            f"{''.join(rows)}B / A: {self.of_minima:.4f} of minima, {self.of_medians:.4f} of "
            f"medians, pairs {low:.4f} to {high:.4f} (quartiles of {len(self.a)})"
        )


def turns(pairs: int) -> Iterator[str]:
    """ "A", "B", "B", "A", "A", "B", ...: a steady drift favours neither tree."""
    for pair in range(pairs):
        yield from "BA" if pair % 2 else "AB"


def compare(
    trees: dict[str, Path], command: Sequence[str], pairs: int, json_key: str | None
) -> Ratio:
    """Run the command in both trees, `trees` being "A" and "B".

    Raises RuntimeError where the command fails, ValueError where its output has no such number.
    """
    values: dict[str, list[float]] = {"A": [], "B": []}
    for name in turns(pairs):
        value = measure(trees[name], command, json_key)
        values[name].append(value)
        print(f"{name} {len(values[name])}/{pairs}: {value:.6g}", file=sys.stderr, flush=True)
    return Ratio(a=tuple(values["A"]), b=tuple(values["B"]))


def measure(tree: Path, command: Sequence[str], json_key: str | None) -> float:
    """One run in one tree: seconds, or the number that the command prints.

    Raises RuntimeError where the command fails, ValueError where its output has no such number.
    """
    program = sys.executable if command[0] == "python" else command[0]
    paths = filter(None, (str(tree), os.environ.get("PYTHONPATH")))
    started = time.perf_counter()
    ended = subprocess.run(
        [program, *command[1:]],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        words = (ended.stderr or ended.stdout).strip()[-LAST_WORDS:]
        raise RuntimeError(f"{tree}: exit code {ended.returncode}: {words}")
    return seconds if json_key is None else number_at(json_of(ended.stdout), json_key)


def json_of(output: str) -> Any:
    """The JSON that is the whole output, or its last line. Raises ValueError."""
    for text in (output, *output.strip().splitlines()[-1:]):
        with suppress(json.JSONDecodeError):
            return json.loads(text)
    raise ValueError(f"the command prints no JSON: {output.strip()[-LAST_WORDS:]!r}")


def number_at(value: Any, dotted: str) -> float:
    """The number under "rows.0.step_seconds_median"; "" is the value itself. Raises ValueError."""
    for name in filter(None, dotted.split(".")):
        try:
            value = value[int(name)] if isinstance(value, list) else value[name]
        except (LookupError, TypeError, ValueError):
            known = ", ".join(value) if isinstance(value, dict) else f"a {type(value).__name__}"
            raise ValueError(f"no {name!r} of {dotted!r} in the JSON; there is {known}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{dotted!r} is no number in the JSON: {value!r}")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The two source trees and what is timed in them; the command itself comes behind `--`."""

    tree_a: Annotated[Positional[Path], arg(metavar="TREE_A")]
    """The folder of source tree A."""
    tree_b: Annotated[Positional[Path], arg(metavar="TREE_B")]
    """The folder of source tree B."""
    pairs: int = 20
    """Runs of each tree."""
    json_key: str | None = None
    """Dotted path to a number in what the command prints."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where both trees ran; 1 where a run failed, 2 for wrong input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    program = "python -m benchmarks.regression.interleaved"
    options = tyro.cli(Options, prog=program, description=__doc__, args=given[:end])
    command = given[end + 1 :]
    trees = {"A": options.tree_a.resolve(), "B": options.tree_b.resolve()}
    json_key = options.json_key if command else options.json_key or STEP_KEY
    try:
        for tree in trees.values():
            if not tree.is_dir():
                raise ValueError(f"no folder {tree}")
        if options.pairs < 1:
            raise ValueError("--pairs must be at least 1")
        print(compare(trees, command or STEP_COMMAND, options.pairs, json_key))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
