"""The result of a check as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from benchmarks.file_names import printable
from benchmarks.regression.check.differences import ValueDifference

if TYPE_CHECKING:
    from benchmarks.regression.check.gate import TopicResult

SCHEMA = "sppo-check/1"


def as_record(
    results: Sequence[TopicResult],
    exit_code: int,
    accept: str,
    environment: dict[str, Any],
    *,
    expected: Path | None = None,
) -> dict[str, Any]:
    """The check as JSON values.

    accept: the command that accepts the changes, or "". expected: the user's own folder of
    expected values.
    """
    return {
        "schema": SCHEMA,
        "exit_code": exit_code,
        "accept": accept,
        "expected": None if expected is None else printable(str(expected)),
        "topics": [
            {
                "topic": result.topic,
                "outcome": result.outcome,
                "reason": result.reason,
                "values": result.values,
                "differences": [_difference(each) for each in result.differences],
            }
            for result in results
        ],
        "environment": environment,
    }


def _difference(difference: ValueDifference) -> dict[str, Any]:
    """An absent value has no key."""
    sides = {"old": difference.old, "new": difference.new}
    return {
        "case": difference.case,
        "key": difference.key,
        **{name: msgspec.to_builtins(side) for name, side in sides.items() if side is not UNSET},
        "share": difference.share,
        "more": difference.more,
    }
