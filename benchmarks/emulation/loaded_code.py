"""Which files of this project a process runs, by their digests."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.environment import CHECKOUT

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
