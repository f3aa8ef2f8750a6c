"""`python -m benchmarks` is `sppo-bench`."""

from __future__ import annotations

import sys

BROKEN_PIPE = 141
"""What a shell reports of a program whose reader went away."""

INTERRUPTED = 130


def main() -> None:
    from benchmarks import standard_streams

    output = standard_streams.prepare()
    try:
        from benchmarks.cli import main as run_command

        status: object = run_command(sys.argv[1:])
    except SystemExit as ended:  # a help, or wrong flags
        status = ended.code
    except KeyboardInterrupt:  # while the commands are imported
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    code = status if isinstance(status, int) else int(status is not None)
    sys.exit(standard_streams.closing_status(output, code, BROKEN_PIPE))


if __name__ == "__main__":
    main()
