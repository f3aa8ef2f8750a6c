"""`python -m benchmarks` is `sppo-bench`."""

from __future__ import annotations

import io
import os
import sys

BROKEN_PIPE = 141
"""What a shell reports of a program whose reader went away."""


def main() -> None:
    from benchmarks.cli import main as run_command

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be Unicode
    try:
        status = run_command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `sppo-bench plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = BROKEN_PIPE
    sys.exit(status)


if __name__ == "__main__":
    main()
