"""A plan, and why it is the one, in words."""

from sppo.planner.report.card import card
from sppo.planner.report.reasons import explain

__all__ = ["card", "explain"]
