"""What sweeps and ablations share: checked options, the folder, and files written and published."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.commands.arguments import UsageError
from benchmarks.commands.measuring.run import check_steps
from benchmarks.commands.study_flags import Measuring
from benchmarks.records import store


def options(verb: Measuring) -> Any:
    """The supervisor's options. Raises UsageError on numbers that cannot be."""
    from benchmarks.launch.run import Options

    try:
        asked = Options(
            launches=verb.launches,
            warmup_steps=verb.warmup_steps,
            measured_steps=verb.measured_steps,
            time_limit_seconds=verb.time_limit,
        )
    except ValueError as error:
        raise UsageError(error) from None
    check_steps(asked)
    return asked


def parent(verb: Measuring) -> Path:
    """The folder in which the study's folder is made."""
    return verb.output or store.results_directory() / "runs"


def names(items: tuple[str, ...]) -> list[str]:
    """Names given by comma, by space, or both."""
    return [name.strip().lower() for item in items for name in item.split(",") if name.strip()]


def write(directory: Path, kind: str, texts: Mapping[str, str]) -> None:
    """`kind`.md, .csv and .json beside the records; the keys of `texts` are the endings."""
    for ending, text in texts.items():
        store.write_bytes(directory / f"{kind}.{ending}", text.encode())


def publish(directory: Path, kind: str, folder: str, name: str) -> None:
    """Copy table, figure and JSON of a study to results/published/FOLDER/NAME.*."""
    target = store.published_directory() / folder
    target.mkdir(parents=True, exist_ok=True)
    for ending in ("md", "json", "png"):
        shutil.copyfile(directory / f"{kind}.{ending}", target / f"{name}.{ending}")
    print(f"published as {target / name}.*", file=sys.stderr)
