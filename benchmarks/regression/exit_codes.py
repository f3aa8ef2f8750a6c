"""Exit codes of `check`, `compare` and `history`, and the margin that two of them share."""

NOT_WORSE = 0
"""Everything is as expected, or not worse."""

WORSE = 1
"""A value changed, a topic failed, or something is slower."""

WRONG_INPUT = 2

UNDECIDED = 3
"""Not everything could be compared, or noise allows no verdict."""

MARGIN = 0.03
"""A measured time that grew by less is not worse."""
