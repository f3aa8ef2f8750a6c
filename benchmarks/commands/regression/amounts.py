"""Times and shares as flags give them."""

from __future__ import annotations

import re

from benchmarks.commands.arguments import UsageError

UNIT_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """ "10m" -> 600.0; also 90, 90s, 1h. Raises UsageError."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if number is None or not float(number[1]):
        raise UsageError(f"--budget {text}: give a time such as 90s, 10m or 1h")
    return float(number[1]) * UNIT_SECONDS[number[2]]


def parse_share(text: str) -> float:
    """ "3%" -> 0.03; also "3". Raises UsageError."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text.strip())
    if number is None or not 0 < float(number[1]) < 100:
        raise UsageError(f"--margin {text}: give per cent, such as 3%")
    return float(number[1]) / 100
