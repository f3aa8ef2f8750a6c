"""The container around this process, as far as its runtime tells."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.file_names import printable
from benchmarks.machine.files import line_of, raw_text
from benchmarks.machine.variables import without_secrets

ROOT = Path("/")

LABELS = (
    "org.opencontainers.image.version",
    "org.opencontainers.image.revision",
    "org.opencontainers.image.ref.name",
    "org.opencontainers.image.created",
    "org.label-schema.build-date",
    "org.label-schema.usage.apptainer.version",
    "org.label-schema.usage.singularity.version",
    "org.label-schema.usage.singularity.deffile.bootstrap",
    "org.label-schema.usage.singularity.deffile.from",
)
"""The only recorded labels of an image."""

MOST_CHARACTERS = 200

LABELS_FILE = ".singularity.d/labels.json"
"""Of Apptainer and Singularity."""

PODMAN_FILE = "run/.containerenv"
"""Empty unless the container is privileged."""


def container(
    root: Path = ROOT, variables: Mapping[str, str] = os.environ
) -> dict[str, Any] | None:
    """Kind, image and labels; None where no runtime shows itself. image: None where untold."""
    in_kubernetes = "KUBERNETES_SERVICE_HOST" in variables
    image: str | None = None
    image_id: str | None = None
    labels: dict[str, str] = {}
    if kind := _apptainer(root, variables):
        image = _image_name(variables.get(f"{kind.upper()}_CONTAINER", ""))
        labels = _labels(root / LABELS_FILE)
    elif (podman := raw_text(root / PODMAN_FILE)) is not None:
        kind, image, image_id = "podman", _quoted("image", podman), _quoted("imageid", podman)
    elif (root / ".dockerenv").exists():
        kind = "docker"
    elif word := variables.get("container") or line_of(root / "run/systemd/container"):
        kind = _short(word)
    elif in_kubernetes:
        kind = "kubernetes"
    else:
        return None
    return {
        "kind": kind,
        "image": image,
        "image_id": image_id,
        "labels": labels,
        "kubernetes": in_kubernetes,
    }


def _apptainer(root: Path, variables: Mapping[str, str]) -> str:
    """Apptainer sets the variable of Singularity too; Singularity only its own."""
    for kind in ("apptainer", "singularity"):
        if variables.get(f"{kind.upper()}_CONTAINER"):
            return kind
    return "apptainer" if (root / ".singularity.d").is_dir() else ""


def _image_name(value: str) -> str | None:
    """The name of the image's file, without its folder; an address as it is."""
    return _short(without_secrets(value) if "://" in value else os.path.basename(value)) or None


def _labels(path: Path) -> dict[str, str]:
    try:
        known = msgspec.json.decode(raw_text(path) or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
    return {name: _short(known[name]) for name in LABELS if isinstance(known.get(name), str)}


def _quoted(key: str, text: str) -> str | None:
    """The value of a line `key="value"`."""
    value = re.search(rf'^{key}="([^"\n]*)"', text, re.MULTILINE)
    return _short(value[1]) or None if value else None


def _short(text: str) -> str:
    return printable(text.strip())[:MOST_CHARACTERS]
