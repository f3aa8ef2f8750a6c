"""File names as they may stand in records and messages. Linux names are bytes, not text."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def printable(name: str) -> str:
    """The name in one line of valid Unicode: control characters and other bytes as `\\xe9`.

    `openable` reverses this.
    """
    return _UNPRINTABLE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    is_byte = "\udc80" <= match[0] <= "\udcff"
    data = match[0].encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{value:02x}" for value in data)


def openable(name: str) -> Path:
    """The path of a name, also of a name from `printable`. The path need not exist."""
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return Path(path)
    unescaped = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(path))
    return Path(os.fsdecode(unescaped)) if os.path.exists(unescaped) else Path(path)
