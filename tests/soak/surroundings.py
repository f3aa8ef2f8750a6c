"""Every command in every surrounding, and real launches in the worst of them.

    python -m tests.soak.surroundings --output results/published/proofs/NAME.json
    python -m tests.soak.surroundings --verbs list,run --surroundings "full disk"
    python -m tests.soak.surroundings --verbs list --output NAME.json --update
    python -m tests.soak.surroundings --launches

The matrix is that of `tests/surroundings.py`, with played launches. `--launches` really launches
with every launching command: with a closed standard output, on a disk that is full after the first
record, and ended by TERM. `--update` enters cells into a file that is there; each names its commit.
Exits 1 where a command did not keep to what it must.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environment import CHECKOUT, child_environment, describe_environment
from benchmarks.records import store
from tests import surroundings
from tests.surroundings import ORDINARY, SURROUNDINGS, VERBS

LAUNCHING: dict[str, tuple[str, ...]] = {
    "run": ("run", "mini-cpu", "--systems", "sppo", "--launches", "1", "--no-wandb"),
    "sweep": (
        *("sweep", "mini-cpu", "--device-memory", "none", "--systems", "sppo"),
        *("--launches", "1", "--no-wandb"),
    ),
    "ablation": ("ablation", "mini-cpu", "--policies", "auto", "--launches", "1", "--no-wandb"),
    "longest": (
        *("longest", "mini-cpu", "--systems", "sppo,native", "--device-memory", "152MiB"),
        *("--at-most", "512", "--no-wandb"),
    ),
    "limit": ("limit", "mini-cpu", "--no-wandb"),
    "emulate": ("emulate", "sppo", "mini-cpu", "--again"),
}
"""Launching commands, short. Each but `emulate` launches again after its first record."""

RANKS = ("worker.rank", "emulation.worker")
"""Modules of ranks, in the command lines of a launch."""


def matrix(verbs: Sequence[str], names: Sequence[str], at_once: int) -> list[dict[str, Any]]:
    """One entry a cell: command, surrounding, exit code (None: without end), faults."""
    with nothing_published(), ThreadPoolExecutor(at_once) as pool:
        rows = pool.map(lambda verb: _cells_of(verb, names), verbs)
        return [cell for cells in rows for cell in cells]


def _cells_of(verb: str, names: Sequence[str]) -> list[dict[str, Any]]:
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        ordinary = surroundings.run(verb, ORDINARY, Path(folder))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            code, wrong = _cell(verb, name, ordinary, Path(folder))
        cells.append({"command": verb, "in": name, "exit_code": code, "faults": wrong})
        print(f"{verb}, {name}: {code} {'; '.join(wrong) or 'as it must'}", flush=True)
    return cells


def _cell(
    verb: str, name: str, ordinary: surroundings.Ended, folder: Path
) -> tuple[int | None, list[str]]:
    try:
        ended = surroundings.run(verb, SURROUNDINGS[name], folder)
    except subprocess.TimeoutExpired as error:
        return None, [f"no end within {error.timeout:.0f} s"]
    wrong = surroundings.faults(verb, ended, ordinary, SURROUNDINGS[name])
    return ended.code, wrong + surroundings.damaged_records(folder)


def launched(verb: str, how: str) -> dict[str, Any]:
    """A real launch under one of "closed stdout", "full disk" and "TERM"."""
    with tempfile.TemporaryDirectory() as name, nothing_published():
        folder = Path(name)
        output = folder / "out"
        output.mkdir()
        disk = full_disk(output) if how == "full disk" else None
        try:
            code, errors = _launch(verb, how, folder, output)
            wrong = surroundings.damaged_records(output)
            written = len(list(output.rglob("*.json")))
        finally:
            if disk is not None:
                subprocess.run(["umount", "--lazy", disk], check=True)
    if "Traceback" in errors:
        wrong.append("traceback")
    if how == "TERM" and code != 130:
        wrong.append(f"exit code {code} after TERM")
    named = "No space left" in errors
    codes = (1, 2) if verb == "emulate" else (1,)  # 2: before the first rank's report
    if how == "full disk" and not (code in codes and named):
        wrong.append(f"exit code {code} on a full disk")
    if how == "closed stdout" and code not in (0, 1):
        wrong.append(f"exit code {code}")
    wrong += [f"process left: {process.pid}" for process in _left(folder)]
    cell = {"command": verb, "in": how, "exit_code": code, "files": written, "faults": wrong}
    print({**cell, "last_line": errors.strip().splitlines()[-1:]}, flush=True)
    return cell


@contextmanager
def nothing_published() -> Iterator[None]:
    """Remove what a command adds to results/published/, as `longest` does."""
    folder = store.published_directory()
    before = set(folder.rglob("*"))
    try:
        yield
    finally:
        for path in set(folder.rglob("*")) - before:
            path.unlink()


def full_disk(path: Path) -> str:
    """Mount a small disk there. Needs root."""
    options = ["-o", "size=64m"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(path)], check=True)
    return str(path)


def _launch(verb: str, how: str, folder: Path, output: Path) -> tuple[int, str]:
    """Exit code and standard error."""
    arguments = [sys.executable, "-P", "-m", "benchmarks", *LAUNCHING[verb], "--output", output]
    environment = child_environment(
        {
            "PYTHONPATH": str(CHECKOUT),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
    )
    closing = ">&-" if how == "closed stdout" else ">/dev/null"
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" {closing}', "bash", *map(str, arguments)],
            env=environment,
            stderr=errors,
            cwd=folder,
        )
        try:
            if how == "TERM":
                _wait_for_ranks(process)
                process.send_signal(signal.SIGTERM)
            elif how == "full disk":
                _fill_after_a_record(process, output, "job" if verb == "emulate" else "record")
            process.wait(900)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        return process.returncode, errors.read()


def _fill_after_a_record(process: subprocess.Popen[bytes], output: Path, kind: str) -> None:
    """Leave no room on the disk once the first file of this kind is there."""
    while process.poll() is None and not any(output.rglob(f"{kind}.json")):
        time.sleep(0.02)
    with (output / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def _wait_for_ranks(process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Return once a rank runs, or the command has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if any(word.endswith(RANKS) for word in child.cmdline()):
                    return
            except psutil.Error:
                continue
        time.sleep(0.2)


def _left(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names the folder."""
    left = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in process.cmdline()):
                left.append(process)
        except psutil.Error:
            continue
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--surroundings", default="", help="a part of their names")
    parser.add_argument("--at-once", type=int, default=2, help="commands side by side")
    parser.add_argument("--launches", action="store_true", help="really launch, no matrix")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--update", action="store_true", help="keep the output's other cells")
    asked = parser.parse_args()
    if asked.update and not (asked.output and asked.output.is_file()):
        parser.error("--update needs --output FILE, a file of earlier cells")
    verbs = asked.verbs.split(",")
    if asked.launches:
        ways = ("closed stdout", "TERM", "full disk")
        cells = [launched(verb, how) for verb in LAUNCHING if verb in verbs for how in ways]
    else:
        names = [name for name in SURROUNDINGS if asked.surroundings in name]
        cells = matrix(verbs, names, asked.at_once)
    commit = describe_environment()["commit"]
    cells = [{**cell, "commit": commit} for cell in cells]
    if asked.update:
        cells = with_earlier(cells, asked.output)
    wrong = [cell for cell in cells if cell["faults"]]
    print(f"{len(cells) - len(wrong)} of {len(cells)} cells as they must be")
    if asked.output:
        report = {
            "schema": "sppo-proof/1",
            "what": "commands in odd surroundings",
            "label": "measured",
            "environment": describe_environment(),
            "cells": cells,
        }
        store.save(asked.output, report)
    return int(bool(wrong))


def with_earlier(cells: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The cells of the file in their order, these in the place of older ones."""
    report = json.loads(path.read_text(encoding="utf-8"))
    commit = report["environment"]["commit"]
    both = {(cell["command"], cell["in"]): {"commit": commit, **cell} for cell in report["cells"]}
    return list((both | {(cell["command"], cell["in"]): cell for cell in cells}).values())


if __name__ == "__main__":
    sys.exit(main())
