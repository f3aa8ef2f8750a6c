"""What holds of the grid of every system, and the workloads of these tests."""

from __future__ import annotations

import dataclasses
import json

from baselines.protocol import Adapter
from sppo.config.models import MODELS
from sppo.config.workload import Cluster, Workload


def workload(
    model: str = "gpt-tiny",
    *,
    ranks: int = 2,
    tokens: int = 4096,
    sequences: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
) -> Workload:
    return Workload(
        name="test",
        model=MODELS[model],
        cluster=Cluster(hardware="cpu", device=device, nodes=1, ranks_per_node=ranks),
        sequence_tokens=tokens,
        sequences_per_step=sequences,
        dtype=dtype,
    )


def check_points(adapter: Adapter, work: Workload) -> None:
    """The points are distinct, allowed, and the same after JSON."""
    grid = adapter.grid(work)
    assert len(set(grid)) == len(grid) > 0
    assert len({adapter.describe(settings) for settings in grid}) == len(grid)
    for settings in grid:
        adapter.check(work, settings)
        again = json.loads(json.dumps(dataclasses.asdict(settings)))
        assert adapter.settings_type(**again) == settings
