"""Emulations of a stopped search that need not run a second time. The page: docs/resume.md."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.emulation.cache import code_digest
from benchmarks.emulation.result import Emulation
from sppo.config.workload import Workload


def key(workload: Workload, system: str, settings: Any) -> str:
    """Equal for two emulations of the same step."""
    asked = (workload, system, msgspec.to_builtins(settings))
    return msgspec.json.encode(asked, order="sorted").decode()


def earlier(directory: Path) -> Mapping[str, Emulation]:
    """The emulations below a folder that came to their end, by `key`.

    Folders of emulations without an end are removed.
    """
    done = {}
    for job_path in sorted(directory.rglob("job.json")):
        folder = job_path.parent
        try:
            emulation = msgspec.json.decode(
                (folder / "emulation.json").read_bytes(), type=Emulation
            )
        except (FileNotFoundError, msgspec.DecodeError):
            shutil.rmtree(folder)
            continue
        emulation = msgspec.structs.replace(emulation, directory=str(folder))
        done[key(emulation.workload, emulation.system, emulation.settings)] = emulation
    return done


def code_of(systems: Sequence[str]) -> dict[str, str]:
    """The digest of each system's emulated code."""
    return {system: code_digest(system) for system in systems}
