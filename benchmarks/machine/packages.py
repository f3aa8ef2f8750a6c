"""The installed distributions: names, versions, and where those that no index has come from."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Literal

import msgspec
from packaging.utils import canonicalize_name

from benchmarks.file_names import printable
from benchmarks.machine.variables import without_secrets

SCHEMA = "sppo-packages/1"

Kind = Literal["archive", "editable", "folder", "vcs", "unreadable"]


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a distribution comes from if not from an index: pip's `direct_url.json`.

    The URL has no login. unreadable: the file cannot be read.
    """

    kind: Kind
    url: str = ""
    vcs: str = ""
    commit: str = ""
    sha256: str = ""
    subdirectory: str = ""


class Package(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An installed distribution, its name as its metadata spells it. origin: None of an index."""

    name: str
    version: str
    origin: Origin | None = None


class PackageList(msgspec.Struct, frozen=True, kw_only=True):
    """All distributions of a Python, by name. unreadable: folders without name or version."""

    schema: str = SCHEMA
    python: str
    packages: list[Package]
    unreadable: list[str] = []

    @property
    def sha256(self) -> str:
        """The digest of all values."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


def installed_packages() -> PackageList:
    """The distributions that this Python would import from; of two with one name the first."""
    return _installed(tuple(map(str, sys.path)))


@cache
def _installed(paths: tuple[str, ...]) -> PackageList:
    packages: dict[str, Package] = {}
    unreadable = set()
    for distribution in distributions(path=list(paths)):
        package = _package(distribution)
        if package is None:
            place = Path(str(getattr(distribution, "_path", "a distribution")))
            unreadable.add(printable(place.name))
        else:
            packages.setdefault(canonicalize_name(package.name), package)
    return PackageList(
        python=platform.python_version(),
        packages=[packages[name] for name in sorted(packages)],
        unreadable=sorted(unreadable),
    )


def _package(distribution: Distribution) -> Package | None:
    """The distribution as a package; None without a name and a version."""
    try:
        metadata = distribution.metadata
        name, version = metadata["Name"], metadata["Version"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not name or not version:
        return None
    return Package(
        name=printable(str(name)), version=printable(str(version)), origin=_origin(distribution)
    )


class _DirectUrl(msgspec.Struct):
    """PEP 610."""

    url: str
    dir_info: dict[str, Any] | None = None
    vcs_info: dict[str, Any] | None = None
    archive_info: dict[str, Any] | None = None
    subdirectory: str | None = None


def _origin(distribution: Distribution) -> Origin | None:
    """Where the distribution comes from; None for an index.

    Conda's packages name the folder in which conda built them, so theirs do not count.
    """
    try:
        text = distribution.read_text("direct_url.json")
        if text is None or (distribution.read_text("INSTALLER") or "").strip() == "conda":
            return None
        direct = msgspec.json.decode(text.encode(), type=_DirectUrl)
    except (OSError, ValueError, msgspec.DecodeError, RecursionError):
        return Origin(kind="unreadable")
    url = printable(without_secrets(direct.url))
    subdirectory = printable(direct.subdirectory or "")
    if direct.vcs_info is not None:
        return Origin(
            kind="vcs",
            url=url,
            vcs=printable(str(direct.vcs_info.get("vcs", ""))),
            commit=printable(str(direct.vcs_info.get("commit_id", ""))),
            subdirectory=subdirectory,
        )
    if direct.dir_info is not None:
        is_editable = direct.dir_info.get("editable") is True
        return Origin(
            kind="editable" if is_editable else "folder", url=url, subdirectory=subdirectory
        )
    hashes = (direct.archive_info or {}).get("hashes")
    sha256 = hashes.get("sha256", "") if isinstance(hashes, dict) else ""
    return Origin(kind="archive", url=url, sha256=printable(str(sha256)), subdirectory=subdirectory)
