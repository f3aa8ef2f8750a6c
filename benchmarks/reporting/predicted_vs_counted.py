"""What a plan has predicted against what was counted and measured, in words for the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from benchmarks.records.record import Record
from sppo.config.sizes import KIB, format_bytes

_T = TypeVar("_T")


def lines(records: Sequence[Record]) -> list[str]:
    """How the plan's predictions compare with what was counted and measured."""
    planned = [record for record in records if record.plan is not None and record.status == "ok"]
    if not planned:
        return []
    plan = planned[0].plan or {}
    predicted = _by_rank(plan, plan["predicted_activation_peak_bytes"], planned[0].ranks)
    counted = [memory.activation_peak_bytes for memory in planned[0].memory]
    verdict = "exactly" if counted == predicted else "NOT"
    sizes = ", ".join(format_bytes(size or 0) for size in counted)
    found = [
        f"{planned[0].row}: peak of kept activations, KV and dKV counted {sizes} by rank, "
        f"{verdict} as predicted"
    ]
    found += _traffic(planned[0], plan)
    measured = [record.bubble_share for record in planned if record.bubble_share is not None]
    if measured:
        found.append(
            f"{planned[0].row}: bubble share {100 * plan['bubble_share']:.1f} % simulated, "
            f"{100 * statistics.median(measured):.1f} % measured"
        )
    return found


def _traffic(record: Record, plan: Mapping[str, Any]) -> list[str]:
    """Messages and collectives of the accounted step against the plan's, by call and byte."""
    known = "predicted_collectives" in plan and record.accounted
    if not known or any(one is None for one in record.accounted):
        return []
    sent, shared = [], []
    for one in record.accounted:
        assert one is not None
        sizes = one.collective_bytes
        calls = {name: count for name, count in one.collective_calls.items() if name in sizes}
        sent.append((calls.pop("send", 0), sizes.get("send", 0)))
        calls.pop("recv_", None)
        shared.append((sum(calls.values()), sum(sizes[name] for name in calls)))
    verdicts = []
    for counted, what in ((sent, "message"), (shared, "collective")):
        of_stages = list(
            zip(plan[f"predicted_{what}s"], plan[f"predicted_{what}_bytes"], strict=True)
        )
        exact = counted == _by_rank(plan, of_stages, record.ranks)
        count, size = max(counted, key=lambda pair: pair[1])
        words = f"{count} {what}{'' if count == 1 else 's'} of {_size(size)}"
        verdicts.append(f"{words} {'exactly' if exact else 'NOT'} as predicted")
    return [f"{record.row}: counted on the busiest rank {' and '.join(verdicts)}"]


def _size(size_bytes: int) -> str:
    return format_bytes(size_bytes) if size_bytes >= KIB else f"{size_bytes} bytes"


def _by_rank(plan: Mapping[str, Any], of_stages: Sequence[_T], ranks: int) -> list[_T]:
    """What a plan predicts of its stages, for every rank: shards are neighbours."""
    shards = plan["sequence_parallel"]
    return [of_stages[rank // shards % len(of_stages)] for rank in range(ranks)]
