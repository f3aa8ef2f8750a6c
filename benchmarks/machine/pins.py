"""Pins of installed packages, in pip's format of constraints.

A line is a requirement or a comment. What no index has is a comment, with its origin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from benchmarks.file_names import printable
from benchmarks.machine.packages import Origin, Package, PackageList

HEADER = (
    "# Pins for `pip install -c FILE`, written by `sppo-bench env --constraints`.",
    "# Comments name what no index has, and the tools that install.",
)
"""The first two lines. pip looks in these for an encoding, so they hold nothing of a machine."""

OTHER_INDEX = (
    "# A version with + is a build of another index, such as https://download.pytorch.org/whl/,",
    "# or of a container: name that index by --extra-index-url, or use that container.",
)

INSTALLERS = ("pip", "setuptools", "wheel")
"""Not pinned: pip uses these to build other packages too, in versions that those ask for."""

OWN = "sppo-suite"

_COMMIT = re.compile("[0-9A-Za-z._-]+")
_PLAIN = re.compile(r"[!-~]+")


def pins(packages: PackageList, notes: Sequence[str] = ()) -> list[str]:
    """The lines of a file of constraints. notes: comments of its head."""
    lines = [line for package in packages.packages for line in _lines(package)]
    lines += [f"# {name}: no name and version in its metadata" for name in packages.unreadable]
    has_local = any("+" in line.partition("==")[2] for line in lines if line[:1] != "#")
    head = [*HEADER, *[f"# {note}" for note in notes], *(OTHER_INDEX if has_local else ())]
    return [_in_ascii(line) for line in (*head, *lines)]


def _in_ascii(line: str) -> str:
    """The line as every encoding has it: pip decodes a file by the locale."""
    return printable(line).encode("ascii", "backslashreplace").decode()


def _lines(package: Package) -> list[str]:
    name, origin = canonicalize_name(package.name), package.origin
    comment = f"# {package.name}=={package.version}"
    pin = _pin(name, package.version)
    if pin is None:
        return [f"{comment}: pip knows no such name or version"]
    if name in INSTALLERS:
        return [f"{comment}: a tool that installs"]
    is_file = origin is not None and origin.kind == "archive" and origin.url[:4] != "http"
    if origin is None:
        return [f"{comment}: this suite" if name == OWN else pin]
    if name == OWN:
        return [f"{comment}: this suite, {_words(origin)}"]
    where = f"{comment}: {_words(origin)}"
    if is_file:
        return [where, pin]
    return [_requirement(name, origin) or where]


def _pin(name: str, version: str) -> str | None:
    """ "name==version"; None where pip would refuse the line."""
    try:
        Version(version)
    except InvalidVersion:
        return None
    return _checked(f"{name}=={version.strip()}")


def _requirement(name: str, origin: Origin) -> str | None:
    """The requirement of what others can fetch: a commit of a repository, or an archive."""
    if not origin.url.startswith(("http://", "https://", "ssh://")):
        return None
    fragment = f"subdirectory={origin.subdirectory}" if origin.subdirectory else ""
    if origin.kind == "archive":
        digest = f"sha256={origin.sha256}" if origin.sha256 else ""
        fragment = "&".join(filter(None, (digest, fragment)))
        url = origin.url
    elif origin.kind == "vcs" and _COMMIT.fullmatch(origin.commit):
        url = f"{origin.vcs}+{origin.url}@{origin.commit}"
    else:
        return None
    return _checked(f"{name} @ {url}{'#' if fragment else ''}{fragment}")


def _checked(line: str) -> str | None:
    """The line, if pip reads it as one requirement. pip expands `$`, and ends a line at ` #`."""
    is_plain = all(map(_PLAIN.fullmatch, line.split(" "))) and "$" not in line
    try:
        Requirement(line)
    except InvalidRequirement:
        return None
    return line if is_plain else None


def _words(origin: Origin) -> str:
    if origin.kind == "unreadable":
        return "its direct_url.json cannot be read"
    kinds = {"archive": "an archive", "folder": "a local folder", "vcs": origin.vcs}
    words = [kinds.get(origin.kind, origin.kind), origin.url]
    words += [f"commit {origin.commit}"] if origin.commit else []
    words += [f"sha256 {origin.sha256}"] if origin.sha256 else []
    return " ".join(words)
