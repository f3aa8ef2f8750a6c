"""Standard streams on which a command can rely: closed, full and narrow-minded ones included.

A failed write must not end a command whose records are more than its output. The first failure is
kept, what follows is dropped, and the failure is reported at the end.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import shutil
import sys
from typing import TextIO

WIDTHS = range(40, 1001)
"""Columns of a terminal that text is wrapped for. Below, tyro's help does not end."""

_ESCAPE = "sppo.escape"


class ForgivingStream(io.RawIOBase):
    """A file descriptor for writing. `error`: its first failure; later output is dropped."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        while self.error is None:
            try:
                return os.write(self.descriptor, view)
            except BlockingIOError:
                select.select([], [self.descriptor], [])
            except OSError as error:
                self.error = error
        return len(view)


def prepare() -> ForgivingStream:
    """Make standard output and error forgiving, in place; standard output's raw stream.

    Closed descriptors become /dev/null: else a file that is opened later gets their number, and
    a child process writes into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    register_escape()
    output = ForgivingStream(1)
    sys.stdout = _text(output, sys.stdout)
    sys.stderr = _text(ForgivingStream(2), sys.stderr)
    bound_columns()
    return output


def register_escape() -> None:
    """Make the error handler of these streams known to codecs."""
    codecs.register_error(_ESCAPE, _escape)


def bound_columns() -> None:
    """Give libraries a width of the terminal within WIDTHS."""
    columns = shutil.get_terminal_size().columns
    if columns not in WIDTHS:
        os.environ["COLUMNS"] = str(max(WIDTHS[0], min(columns, WIDTHS[-1])))


def _text(raw: ForgivingStream, before: TextIO | None) -> TextIO:
    """The raw stream as text in the encoding of the stream before it. Errors stream at once."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before is not None else "utf-8",
        errors=_ESCAPE,
        line_buffering=raw.descriptor == 2 or raw.isatty(),
    )


def _escape(error: UnicodeError) -> tuple[str, int]:
    """The characters that an encoding lacks, as JSON escapes them: four hex digits after \\u."""
    assert isinstance(error, UnicodeEncodeError), "a stream that is read has no such handler"
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def closing_status(output: ForgivingStream, status: int, broken_pipe: int) -> int:
    """The exit code after the last output. A lost output is an error, said in one line.

    broken_pipe: the exit code where the reader went away, as in `sppo-bench plan ... | head`.
    """
    sys.stdout.flush()
    error = output.error
    if error is None:
        return status
    if error.errno == errno.EPIPE:
        return broken_pipe
    print(f"error: standard output: {error.strerror}", file=sys.stderr)
    return status or 1
