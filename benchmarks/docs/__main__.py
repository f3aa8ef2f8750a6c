"""`python -m benchmarks.docs`: write the generated tables of README.md and docs/, or check them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.docs import pages
from sppo.config.folders import PACKAGES, in_checkout


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every table is up to date or was written. 1: `--check` found an old table. 2: an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 on an old table"
    )
    parser.add_argument(
        "--folder", type=Path, default=PACKAGES / "docs", help="the pages (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
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
