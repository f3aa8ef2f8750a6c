"""What must be equal on all nodes before anything starts: code, Python, libraries, flags."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

import msgspec

from benchmarks.environment import CHECKOUT, LIBRARIES, git_state

PACKAGES = ("sppo", "baselines", "benchmarks")

COMPARED = ("tokenizers", "transformer-engine", "flash-attn", "flash-attn-3")
"""Further libraries that a launch may use; with them all of NVIDIA's own (`nvidia-...`)."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A node. arguments: the command and the flags that decide what is measured."""

    host: str
    commit: str | None
    code_sha256: str
    python: str
    versions: dict[str, str]
    arguments: list[str]


def facts_here(arguments: list[str]) -> Facts:
    """The facts of this node."""
    return Facts(
        host=socket.gethostname(),
        commit=git_state(CHECKOUT)[0],
        code_sha256=code_digest(CHECKOUT),
        python=platform.python_version(),
        versions=compared_versions(),
        arguments=arguments,
    )


def compared_versions() -> dict[str, str]:
    """Name -> version of the installed libraries that launches depend on."""
    known: dict[str, str] = {}
    for distribution in distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in (*LIBRARIES, *COMPARED) or name.startswith("nvidia-"):
            known.setdefault(name, distribution.version)
    return known


def code_digest(folder: Path) -> str:
    """The SHA-256 over names and contents of all modules of our packages in a folder."""
    digest = hashlib.sha256()
    paths = [path for package in PACKAGES for path in (folder / package).rglob("*.py")]
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def difference(head: Facts, other: Facts) -> str:
    """The first difference that spoils a comparison, with its cure; "" without any."""
    return next(_differences(head, other), "")


def _differences(head: Facts, other: Facts) -> Iterator[str]:
    if head.code_sha256 != other.code_sha256:
        yield (
            f"its code is not that of node 0 ({_code(other)}, on node 0 {_code(head)}); check out "
            "the same commit on all nodes"
        )
    if head.python != other.python:
        yield f"it has Python {other.python}, node 0 has {head.python}; use the same on all nodes"
    for name, ours, theirs in _versions(head.versions, other.versions):
        yield (f"it has {name} {theirs}, node 0 has {ours}; install the same versions on all nodes")
    if head.arguments != other.arguments:
        yield (
            f"it was started for `{' '.join(other.arguments)}`, node 0 for "
            f"`{' '.join(head.arguments)}`; give the same command and flags on all nodes"
        )


def _code(facts: Facts) -> str:
    commit = f"commit {facts.commit[:9]}, " if facts.commit else ""
    return f"{commit}digest {facts.code_sha256[:9]}"


def _versions(head: Mapping[str, str], other: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Libraries with different versions, the main ones first."""
    for name in dict.fromkeys((*LIBRARIES, *sorted({*head, *other}))):
        ours, theirs = head.get(name, "none"), other.get(name, "none")
        if ours != theirs:
            yield name, ours, theirs
