"""Emulated roles that need not run a second time: same input, same code of the system.

An entry is a file of results/cache/emulation/, named by two digests of all that decides the counts:
workload, hardware profile, system, settings, role, versions; and the source files (`code_digest`).
Other edits (commands, records, studies, tests, another system) leave an entry valid. Roles of a
system from another package are not kept: the digest does not cover that package's code.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import msgspec

from baselines import registry
from baselines.protocol import Role
from benchmarks.emulation.result import EmulationJob, RoleReport
from benchmarks.environment import CHECKOUT, git_state
from benchmarks.records import store
from sppo.config.hardware import load_hardware

SHARED_CODE = (
    "baselines/protocol.py",
    "baselines/registry.py",
    "benchmarks/accounting",
    "benchmarks/emulation",
    "benchmarks/job.py",
    "benchmarks/worker/step_isolation.py",
    "benchmarks/worker/weights.py",
    "sppo/config",
    "sppo/kernels",
)
"""The code that every emulated rank runs, whatever its system. A test follows the imports."""

DATA_FIELDS = ("data_field", "tokenizer")
"""Fields of a workload that an emulation does not read. Keys of older entries have none of them."""

FURTHER_CODE = {
    "deepspeed": ("baselines/attention_saving.py", "baselines/reference.py"),
    "megatron": ("baselines/attention_saving.py",),
    "native": ("baselines/attention_saving.py", "baselines/reference.py"),
    "sppo": ("sppo",),
}
"""The code of a library outside baselines/<library>/ and baselines/<library>.py."""


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One emulated rank. curve: the text of its CSV. commit: of the checkout that ran it."""

    report: RoleReport
    curve: str
    commit: str


@dataclass(frozen=True, kw_only=True)
class EmulationCache:
    """Entries below `directory`, written whole or not at all.

    accept_stale: an entry of older code answers too, the newest first. Its report is marked with
    the commit of that code.
    """

    directory: Path
    accept_stale: bool = False

    def find(self, job: EmulationJob, role: Role, code: str) -> RoleReport | None:
        """The report of an equal earlier run; writes its curve to the job's folder.

        `code` is the present `code_digest`. None without an entry, or where it cannot be read.
        """
        if _is_installed(job.system):
            return None
        present = self._path(job, role, code)
        paths = [present]
        if self.accept_stale:
            older = self.directory.glob(self._path(job, role, "*").name)
            paths += sorted(older, key=lambda path: path.stat().st_mtime, reverse=True)
        for path in paths:
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=CacheEntry)
            except (OSError, msgspec.DecodeError):
                continue
            curve = Path(job.output_directory) / f"live-{role.rank}.csv"
            store.write_bytes(curve, entry.curve.encode())
            stale_commit = "" if path == present else entry.commit
            return msgspec.structs.replace(entry.report, reused=True, stale_commit=stale_commit)
        return None

    def keep(self, job: EmulationJob, role: Role, report: RoleReport, code: str) -> None:
        """Enter a run that ended, unless the code has changed since it began.

        `code` is the `code_digest` from before the run. Raises OSError.
        """
        if report.status != "ok" or _is_installed(job.system):
            return
        if code_digest(job.system) != code:
            return
        curve = (Path(job.output_directory) / f"live-{role.rank}.csv").read_text(encoding="ascii")
        self.directory.mkdir(parents=True, exist_ok=True)
        entry = CacheEntry(report=report, curve=curve, commit=_commit_of(code))
        store.write_bytes(self._path(job, role, code), msgspec.json.encode(entry))

    def _path(self, job: EmulationJob, role: Role, code: str) -> Path:
        return self.directory / f"{key(job, role)}-{code[:16]}.json"


def _is_installed(system: str) -> bool:
    """Whether the system is from another package."""
    return system not in registry.SYSTEMS and system in registry.installed()


@lru_cache
def _commit_of(code: str) -> str:
    """The commit of the checkout, asked once for each `code_digest`."""
    return git_state(CHECKOUT)[0] or "unknown"


def default_cache(*, accept_stale: bool = False) -> EmulationCache:
    """The cache of this checkout."""
    directory = store.results_directory() / "cache" / "emulation"
    return EmulationCache(directory=directory, accept_stale=accept_stale)


def key(job: EmulationJob, role: Role) -> str:
    """A digest of all that decides the counts, except the system's code (`code_digest`)."""
    workload = msgspec.to_builtins(replace(job.workload, name=""))
    asked = (
        {name: value for name, value in workload.items() if name not in DATA_FIELDS},
        msgspec.to_builtins(load_hardware(job.workload.cluster.hardware)),
        job.system,
        job.settings,
        job.plans,
        (role.name, role.rank, role.ranks),
        registry.load(job.system).versions(),
        sys.version_info[:2],
    )
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


def code_digest(system: str, checkout: Path = CHECKOUT) -> str:
    """A digest of the names and contents of the system's source files."""
    digest = hashlib.sha256()
    for path in code_files(system, checkout):
        state = path.stat()
        content = _content_digest(path, state.st_mtime_ns, state.st_size)
        digest.update(f"{path.relative_to(checkout)} {content}\n".encode())
    return digest.hexdigest()


@cache
def _content_digest(path: Path, mtime_ns: int, size_bytes: int) -> str:
    """Of a file in this state: a search asks after each of its ranks whether a file has changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_files(system: str, checkout: Path = CHECKOUT) -> list[Path]:
    """The files that decide what an emulated rank of this system counts, sorted."""
    library = system.partition("-")[0]  # a row marked "ours" runs the same library
    own = (f"baselines/{library}", f"baselines/{library}.py")
    names = (*SHARED_CODE, *own, *FURTHER_CODE.get(library, ()))
    paths = [checkout / name for name in names]
    files = {file for path in paths if path.is_dir() for file in path.rglob("*.py")}
    return sorted(files.union(path for path in paths if path.is_file()))
