"""Exit codes of `check`, `compare` and `history`."""

NOT_WORSE = 0
"""Everything is as expected, or not worse."""

WORSE = 1
"""A value changed, a topic failed, or something is slower."""

WRONG_INPUT = 2

UNDECIDED = 3
"""Not everything could be compared, or noise allows no verdict."""
