"""Which saved tensors of a stage are kept, offloaded or recomputed."""

from sppo.planner.activations.policies import POLICIES
from sppo.planner.activations.stage_problem import StageProblem

__all__ = ["POLICIES", "StageProblem"]
