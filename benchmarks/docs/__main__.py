"""`python -m benchmarks.docs`: write the generated tables of README.md and docs/, or check them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import FlagCreatePairsOff

from benchmarks.docs import pages
from sppo.config.folders import PACKAGES, in_checkout


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the generated tables of README.md and docs/, or check them."""

    check: bool = False
    """Write nothing; exit 1 on an old table."""
    folder: Path = PACKAGES / "docs"
    """The pages."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every table is up to date or was written. 1: `--check` found an old table. 2: an error."""
    program = "python -m benchmarks.docs"
    options = tyro.cli(Options, prog=program, args=arguments, config=(FlagCreatePairsOff,))
    try:
        if not in_checkout():
            raise ValueError("docs/ lies in a checkout only: run the command there")
        old = pages.update(options.folder, write=not options.check)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in old:
        print(f"{name}: {'out of date' if options.check else 'written'}")
    return int(options.check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
