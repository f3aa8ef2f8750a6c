"""The launches of the plain torch reference, which every row is compared with."""

from __future__ import annotations

from typing import Any

import msgspec

from baselines import registry
from benchmarks.rows.assign import assign, with_settings
from benchmarks.rows.row import EXACT_REFERENCE, REFERENCE, Configuration
from sppo.config.workload import Workload

SLOW = 16.0
"""float32 products of a GPU take so many times as long as those of bfloat16: 67 against 989
TFLOP/s on an H100."""


def references(workload: Workload) -> list[Configuration]:
    """The reference; in bfloat16 one in float32 before it, from the same initial weights.

    The error of plain torch in bfloat16 is the difference of the two.
    """
    plain = assign(REFERENCE, workload)
    if workload.dtype != "bfloat16" or plain.status is not None:
        return [plain]
    adapter = registry.load(REFERENCE.system)
    settings: Any = msgspec.convert({"dtype": "float32"}, adapter.settings_type)
    return [with_settings(EXACT_REFERENCE, adapter, settings, grid="nothing to choose"), plain]
