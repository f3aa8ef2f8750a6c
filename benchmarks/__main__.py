"""`python -m benchmarks` is `sppo-bench`."""

from __future__ import annotations

import sys


def main() -> None:
    from benchmarks.cli import main as run_command

    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
