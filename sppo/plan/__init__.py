"""The plan as data: parts, saved tensors, lendings, and what becomes of each."""

from sppo.plan.blocks import BlockSpec, block_of
from sppo.plan.layout import Degrees, Layout
from sppo.plan.msp import MspSplit, Slice, Slicing
from sppo.plan.parts import PartShape, SubsequenceCost
from sppo.plan.plan import PartPlan, Plan, StageMemory, StagePlan, StepPlans, check_plan
from sppo.plan.prediction import Prediction
from sppo.plan.saved_tensors import SavedTensor, SavedTensorKey, head_saved_tensors
from sppo.plan.weights import weight_shapes

__all__ = [
    "BlockSpec",
    "Degrees",
    "Layout",
    "MspSplit",
    "PartPlan",
    "PartShape",
    "Plan",
    "Prediction",
    "SavedTensor",
    "SavedTensorKey",
    "Slice",
    "Slicing",
    "StageMemory",
    "StagePlan",
    "StepPlans",
    "SubsequenceCost",
    "block_of",
    "check_plan",
    "head_saved_tensors",
    "weight_shapes",
]
