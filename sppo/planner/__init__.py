"""From a workload and its hardware to the fastest plan that fits."""

from sppo.planner.longest import longest_tokens
from sppo.planner.options import SolverOptions
from sppo.planner.search_log import Search
from sppo.planner.short_step import short_plan
from sppo.planner.solve import solve

__all__ = ["Search", "SolverOptions", "longest_tokens", "short_plan", "solve"]
