"""The list of installed packages of a run's folder, written once, and found from its records.

A record has the list's digest. A resumed run with other packages adds a second file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine.packages import SCHEMA, Package, PackageList, installed_packages
from benchmarks.records import record as records
from benchmarks.records.store import RecordError, read_json, save

PATTERN = "packages-*.json"
RUN_NAME = "run.json"
"""As in `benchmarks.launch.run_file`."""

FOLDERS_ABOVE = 4
"""A study has folders of runs, which have folders of launches."""

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class RecordedMachine:
    """The environment of a record. is_complete: whether `packages` are all that were installed."""

    environment: dict[str, Any]
    packages: PackageList
    is_complete: bool


def save_packages(directory: Path) -> Path:
    """Write the list of this Python's packages into a folder that lacks it. Raises OSError."""
    packages = installed_packages()
    path = directory / _file_name(packages.sha256)
    return path if path.exists() else save(path, packages)


def _file_name(sha256: str) -> str:
    return f"packages-{sha256[:12]}.json"


def recorded_machine(path: Path) -> RecordedMachine:
    """The machine of a run's folder, or of one of its JSON files. Raises RecordError.

    Of records from before the list, and without the file of the list, only the main packages are
    known.
    """
    try:
        if path.is_dir():
            return _of_folder(path)
        return _of_environment(_environment(path), path.parent)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; name a folder of `sppo-bench run`") from None


def _of_folder(folder: Path) -> RecordedMachine:
    paths = sorted(folder.rglob(records.FILE_NAME)) or sorted(folder.rglob(RUN_NAME))
    if not paths:
        raise RecordError(f"{folder}: no record.json in it; name a folder of `sppo-bench run`")
    by_digest: dict[str, Path] = {}
    for path in paths:
        by_digest.setdefault(_digest(_environment(path)), path)
    if len(by_digest) > 1:
        raise RecordError(
            f"{folder}: its launches had {len(by_digest)} lists of packages; name one of "
            f"{', '.join(map(str, by_digest.values()))}"
        )
    return _of_environment(_environment(paths[0]), paths[0].parent)


def _environment(path: Path) -> dict[str, Any]:
    """The environment in a JSON file: of a record, or the output of `sppo-bench env --json`."""
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{path}: no JSON of ours ({error}); name a record.json") from None
    environment = values if {"python", "packages"} <= set(values) else values.get("environment")
    if not isinstance(environment, dict):
        raise RecordError(f"{path}: no environment in it; name a record.json")
    return environment


def _of_environment(environment: dict[str, Any], folder: Path) -> RecordedMachine:
    digest = _digest(environment)
    packages = _inline(environment) or _listed(
        digest, [folder, *islice(folder.parents, FOLDERS_ABOVE)]
    )
    return RecordedMachine(
        environment=environment,
        packages=packages or _main_packages(environment),
        is_complete=packages is not None,
    )


def _digest(environment: Mapping[str, Any]) -> str:
    """The digest of the list; "" in records from before the list."""
    packages = environment.get("packages")
    value = str(packages.get("sha256")) if isinstance(packages, dict) else ""
    return value if _DIGEST.fullmatch(value) else ""


def _inline(environment: Mapping[str, Any]) -> PackageList | None:
    """The list in the output of `sppo-bench env --json`, or in the file of a list itself."""
    packages = environment.get("packages")
    values = packages.get("list") if isinstance(packages, dict) else environment
    try:
        return msgspec.convert(values, PackageList)
    except msgspec.ValidationError:
        return None


def _listed(sha256: str, folders: Iterable[Path]) -> PackageList | None:
    """The list with this digest in the first folder that has it. Raises RecordError."""
    paths = (folder / _file_name(sha256) for folder in folders if sha256)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    packages = read_json(path, PackageList, SCHEMA, "restore the file, or delete it")
    if packages.sha256 != sha256:
        raise RecordError(f"{path}: its digest is another; restore the file, or delete it")
    return packages


def _main_packages(environment: Mapping[str, Any]) -> PackageList:
    versions = environment.get("versions")
    known = versions if isinstance(versions, dict) else {}
    packages = [Package(name=name, version=str(known[name])) for name in sorted(known)]
    return PackageList(python=str(environment.get("python", "unknown")), packages=packages)
