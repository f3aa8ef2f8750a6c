"""Emulated roles that need not run again: same system, versions, settings, workload and code.

An entry is a folder of results/cache/emulation/, named by the digest of what was asked. It holds
role.json, live.csv, and code.json: every file of this project that the emulated rank had loaded,
with its digest. Where one of them has changed since, the entry is of no use and is made again.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from baselines.protocol import Adapter, Role
from benchmarks import records
from benchmarks.emulation import EmulationJob, RoleReport

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sppo", "baselines", "benchmarks")


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Entries below `directory`."""

    directory: Path

    def find(self, job: EmulationJob, role: Role, adapter: Adapter) -> RoleReport | None:
        """The report of a run that this one would repeat; its curve is copied beside it."""
        entry = self.directory / key(job, role, adapter)
        report, code = entry / "role.json", entry / "code.json"
        if not report.is_file() or not code.is_file():
            return None
        loaded = msgspec.json.decode(code.read_bytes(), type=dict[str, str])
        if any(digest(ROOT / name) != found for name, found in loaded.items()):
            return None
        curve = Path(job.output_directory) / f"live-{role.rank}.csv"
        shutil.copyfile(entry / "live.csv", curve)
        found = msgspec.json.decode(report.read_bytes(), type=RoleReport)
        return msgspec.structs.replace(found, reused=True)

    def keep(self, job: EmulationJob, role: Role, adapter: Adapter) -> None:
        """Enter the run that has just ended in the job's folder, if it came to its end."""
        made = Path(job.output_directory)
        report, code = made / f"role-{role.rank}.json", made / f"code-{role.rank}.json"
        curve = made / f"live-{role.rank}.csv"
        if not curve.is_file() or not code.is_file():
            return
        entry = self.directory / key(job, role, adapter)
        entry.mkdir(parents=True, exist_ok=True)
        for source, name in ((report, "role.json"), (curve, "live.csv"), (code, "code.json")):
            records.write_bytes(entry / name, source.read_bytes())


def default_cache() -> Cache:
    """That of this checkout."""
    return Cache(directory=records.results_directory() / "cache" / "emulation")


def key(job: EmulationJob, role: Role, adapter: Adapter) -> str:
    """A digest of all that decides the counts, but the code."""
    asked = (
        replace(job.workload, name=""),
        job.system,
        job.settings,
        (role.name, role.rank, role.ranks),
        adapter.versions(),
        sys.version_info[:2],
    )
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


def loaded_code() -> Mapping[str, str]:
    """Files of this project that this process has imported, or could read as a profile."""
    modules = [
        module for name, module in list(sys.modules.items()) if name.partition(".")[0] in PACKAGES
    ]
    files = {Path(module.__file__).resolve() for module in modules if module.__file__}
    files |= set((ROOT / "sppo" / "profiles").glob("*.json"))
    inside = [path for path in files if path.is_relative_to(ROOT)]
    return {str(path.relative_to(ROOT)): digest(path) for path in sorted(inside)}


def digest(path: Path) -> str:
    """Of a file's contents; "" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
