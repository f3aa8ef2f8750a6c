"""What lies on a device and its host at every moment of a plan, in bytes."""

from sppo.memory_model.live_bytes import LiveBytes
from sppo.memory_model.msp import MspRole
from sppo.memory_model.stage_memory import KEEP, Decision, StageDecisions, StageMemoryModel
from sppo.memory_model.temporaries import PartKind

__all__ = [
    "KEEP",
    "Decision",
    "LiveBytes",
    "MspRole",
    "PartKind",
    "StageDecisions",
    "StageMemoryModel",
]
