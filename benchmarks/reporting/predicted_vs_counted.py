"""The predictions of a plan against counted and measured values, as lines under the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from benchmarks.records.record import Record
from sppo.config.sizes import KIB, format_bytes

_T = TypeVar("_T")


def lines(records: Sequence[Record]) -> list[str]:
    """Predicted memory, traffic and bubble share of the first planned launch, against its record.

    Empty where no launch with status ok has a plan.
    """
    planned = [record for record in records if record.plan is not None and record.status == "ok"]
    if not planned:
        return []
    plan = planned[0].plan or {}
    predicted = _by_rank(plan, plan["predicted_activation_peak_bytes"], planned[0].ranks)
    counted = [memory.activation_peak_bytes for memory in planned[0].memory]
    verdict = "exactly" if counted == predicted else "NOT"
    sizes = ", ".join(format_bytes(size or 0) for size in counted)
    result = [
        f"{planned[0].row}: peak of saved tensors, KV and dKV counted {sizes} by rank, "
        f"{verdict} as predicted"
    ]
    result += _traffic(planned[0], plan)
    measured = [record.bubble_share for record in planned if record.bubble_share is not None]
    if measured:
        result.append(
            f"{planned[0].row}: bubble share {100 * plan['bubble_share']:.1f} % simulated, "
            f"{100 * statistics.median(measured):.1f} % measured"
        )
    return result


def _traffic(record: Record, plan: Mapping[str, Any]) -> list[str]:
    """Calls and bytes of messages and collectives of the accounted step, against the plan's."""
    by_rank = [accounted for accounted in record.accounted if accounted is not None]
    if "predicted_collectives" not in plan or not by_rank or len(by_rank) < len(record.accounted):
        return []
    messages, collectives = [], []
    for accounted in by_rank:
        sizes = accounted.collective_bytes
        calls = {name: count for name, count in accounted.collective_calls.items() if name in sizes}
        messages.append((calls.pop("send", 0), sizes.get("send", 0)))
        calls.pop("recv_", None)
        collectives.append((sum(calls.values()), sum(sizes[name] for name in calls)))
    verdicts = []
    for counted, kind in ((messages, "message"), (collectives, "collective")):
        predicted = zip(plan[f"predicted_{kind}s"], plan[f"predicted_{kind}_bytes"], strict=True)
        exact = counted == _by_rank(plan, list(predicted), record.ranks)
        count, size = max(counted, key=lambda pair: pair[1])
        words = f"{count} {kind}{'' if count == 1 else 's'} of {_size(size)}"
        verdicts.append(f"{words} {'exactly' if exact else 'NOT'} as predicted")
    return [f"{record.row}: counted on the busiest rank {' and '.join(verdicts)}"]


def _size(size_bytes: int) -> str:
    return format_bytes(size_bytes) if size_bytes >= KIB else f"{size_bytes} bytes"


def _by_rank(plan: Mapping[str, Any], of_stages: Sequence[_T], ranks: int) -> list[_T]:
    """A prediction by stage, for every rank. The ranks of a stage are neighbours."""
    shards = plan["sequence_parallel"]
    return [of_stages[rank // shards % len(of_stages)] for rank in range(ranks)]
