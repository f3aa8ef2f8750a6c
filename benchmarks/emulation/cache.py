"""Emulated roles that need not run again: same system, versions, settings, workload and code.

An entry is a file of results/cache/emulation/, named by the digest of what was asked: the report,
its curve, and every file of this project that the emulated rank had loaded, with its digest. Where
one of them has changed since, the entry is of no use and is made again. Roles of a system that
another package brings are not kept: nobody watches that package's code.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Role
from benchmarks.emulation.result import EmulationJob, RoleReport
from benchmarks.environment import CHECKOUT
from benchmarks.records import store
from sppo.config.hardware import load_profile


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One emulated rank. code: path below the checkout -> digest. curve: the text of its CSV."""

    report: RoleReport
    code: dict[str, str]
    curve: str


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Entries below `directory`, written whole or not at all."""

    directory: Path

    def find(
        self, job: EmulationJob, role: Role, adapter: Adapter, code: Mapping[str, str]
    ) -> RoleReport | None:
        """The report of a run that this one would repeat; its curve is written to the job's folder.

        `code` is what is on disk now. An entry that cannot be read is none.
        """
        if job.system in registry.installed():
            return None
        path = self.directory / f"{key(job, role, adapter)}.json"
        try:
            entry = msgspec.json.decode(path.read_bytes(), type=Entry)
        except (OSError, msgspec.DecodeError):
            return None
        if any(code.get(name) != found for name, found in entry.code.items()):
            return None
        curve = Path(job.output_directory) / f"live-{role.rank}.csv"
        store.write_bytes(curve, entry.curve.encode())
        return msgspec.structs.replace(entry.report, reused=True)

    def keep(
        self,
        job: EmulationJob,
        role: Role,
        adapter: Adapter,
        report: RoleReport,
        code: Mapping[str, str],
    ) -> None:
        """Enter a run that came to its end with the code that was on disk when it began.

        Raises OSError.
        """
        if report.status != "ok" or job.system in registry.installed():
            return
        made = Path(job.output_directory)
        loaded = msgspec.json.decode(
            (made / f"code-{role.rank}.json").read_bytes(), type=dict[str, str]
        )
        if any(code.get(name) != found for name, found in loaded.items()):
            return
        curve = (made / f"live-{role.rank}.csv").read_text(encoding="ascii")
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{key(job, role, adapter)}.json"
        entry = Entry(report=report, code=loaded, curve=curve)
        store.write_bytes(path, msgspec.json.encode(entry))


def default_cache() -> Cache:
    """That of this checkout."""
    return Cache(directory=store.results_directory() / "cache" / "emulation")


def key(job: EmulationJob, role: Role, adapter: Adapter) -> str:
    """A digest of all that decides the counts, but the code."""
    asked = (
        replace(job.workload, name=""),
        msgspec.to_builtins(load_profile(job.workload.cluster.hardware)),
        job.system,
        job.settings,
        job.plans,
        (role.name, role.rank, role.ranks),
        adapter.versions(),
        sys.version_info[:2],
    )
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


PACKAGES = ("sppo", "baselines", "benchmarks")


def loaded_code() -> dict[str, str]:
    """Path below the checkout -> digest, of every module of this project imported so far."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name == "__main__" or name.partition(".")[0] in PACKAGES
    ]
    files = (getattr(module, "__file__", None) for module in modules)
    return _digests(Path(file).resolve() for file in files if file)


def code_on_disk() -> dict[str, str]:
    """The same of every module there is."""
    return _digests(path for name in PACKAGES for path in (CHECKOUT / name).rglob("*.py"))


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    inside = sorted({path for path in paths if path.is_relative_to(CHECKOUT)})
    return {
        str(path.relative_to(CHECKOUT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in inside
    }
