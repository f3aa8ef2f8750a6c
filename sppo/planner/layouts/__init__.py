"""The layouts that the planner tries: degrees, cuts, parts a stage."""

from sppo.planner.layouts.candidates import every_layout
from sppo.planner.layouts.degrees import every_degree
from sppo.planner.layouts.timed_layout import Ends, TimedLayout

__all__ = ["Ends", "TimedLayout", "every_degree", "every_layout"]
