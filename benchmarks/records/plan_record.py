"""A plan in a record, and a plan in words.

On disk a plan is flat: the prediction has no object of its own. Only this module
flattens a plan and reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from sppo.config.models import Model
from sppo.cost_model.collectives import step_collectives
from sppo.plan.blocks import BlockSpec, block_of
from sppo.plan.plan import Plan, Prediction

KEYS = (
    "workload",
    "model",
    "sequence_tokens",
    "sequences_per_step",
    "element_bytes",
    "hardware",
    "sequence_parallel",
    "ulysses_parallel",
    "context_parallel",
    "sharded_weights",
    "exchange_pieces",
    "pipeline_parallel",
    "data_parallel",
    "virtual_stages",
    "group_subsequences",
    "kv_block_tokens",
    "kv_sets",
    "head_alone",
    "lengths_tokens",
    "stages",
    "fetch_ahead",
    "makespan_seconds",
    "reduction_seconds",
    "bubble_share",
    "reasons",
    "rejected",
    "lendings",
    "predicted_messages",
    "predicted_message_bytes",
)
"""The keys of a plan on disk, in order; `context_parallel` only where it is above 1, and
`sharded_weights` and `exchange_pieces` only where there are any."""


def flat_plan(plan: Plan) -> dict[str, Any]:
    """A plan and its prediction as plain values, by the names in `KEYS`."""
    values: dict[str, Any] = msgspec.to_builtins(plan)
    predicted: dict[str, Any] = msgspec.to_builtins(plan.predicted)
    values.update(predicted)
    values = {_key_on_disk(name): value for name, value in values.items()}
    if plan.context_parallel == 1:
        del values["context_parallel"]
    if not plan.sharded_weights:
        del values["sharded_weights"]
    if plan.exchange_pieces == 1:
        del values["exchange_pieces"]
    return {key: values[key] for key in KEYS if key in values}


def read_plan(values: Mapping[str, Any]) -> Plan:
    """The plan of a record; further keys are ignored.

    Raises msgspec.ValidationError for a plan of another version.
    """
    own = _fields_of(Plan, values) | {"prediction": _fields_of(Prediction, values)}
    return msgspec.convert(own, Plan)


def _fields_of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that a flat plan has."""
    names = [field.name for field in fields(kind)]
    return {name: values[_key_on_disk(name)] for name in names if _key_on_disk(name) in values}


_KEYS_ON_DISK = {
    "messages": "predicted_messages",
    "message_bytes": "predicted_message_bytes",
    "msp_splits": "lendings",
}


def _key_on_disk(name: str) -> str:
    return _KEYS_ON_DISK.get(name, name)


def plan_words(plan: Mapping[str, Any]) -> str:
    """A plan as the settings of a row: "PP2, N 8, offload 36%, recompute norms, activation".

    Both shares are means over subsequences and over the chunks with layers.
    """
    chunks = [part for stage in plan["stages"] for part in stage["parts"]]
    parts = [part for part in chunks if part["layers"][0] < part["layers"][1]]
    shares = [share for part in parts for share in part["offload_share"]]
    words = f"PP{plan['pipeline_parallel']}"
    names = ("Ulysses", "ulysses_parallel"), ("CP", "context_parallel")
    division = [f"{name} {plan[key]}" for name, key in names if plan.get(key, 1) > 1]
    for key, template in (
        ("sequence_parallel", " SP{}" + f" ({' x '.join(division)})" * bool(division)),
        ("data_parallel", " DP{}"),
        ("virtual_stages", " x {} chunks"),
    ):
        degree = plan.get(key, 1)
        words += template.format(degree) if degree > 1 else ""
    words += ", sharded weights" if plan.get("sharded_weights") else ""
    words += f", N {len(plan['lengths_tokens'])}"
    words += ", MSP" if plan.get("lendings") else ""
    words += ", hosted KV" if plan.get("kv_block_tokens") else ""
    words += f", offload {sum(shares) / max(len(shares), 1):.0%}"
    rows = [row for part in parts for row in part["recompute_units"]]
    return words + _recompute_words(block_of(Model(**plan["model"])), rows)


def _recompute_words(block: BlockSpec, rows: Sequence[Sequence[str]]) -> str:
    """The recompute level, and the share of the subsequences that recompute."""
    names = {name for row in rows for name in row}
    if not names:
        return ""
    level = "everything"
    if names <= set(block.recompute_cheap):
        level = "norms, activation"
    elif names <= set(block.recompute_mlp):
        level = "norms, MLP"
    elif names <= set(block.recompute_lean):
        level = "all but attention"
    share = sum(bool(row) for row in rows) / len(rows)
    return f", recompute {level}" + ("" if share == 1 else f" in {share:.0%}")


def plan_data(
    plan: Plan, *, solver: str | None = None, profile_kind: str | None = None
) -> dict[str, Any]:
    """A plan for records and programs, with its predictions by stage and by subsequence.

    Keys and units: docs/plan.md. `solver` and `profile_kind` are null unless the caller gives them.
    """
    memory = [stage.memory for stage in plan.stages]
    shared = [step_collectives(plan, stage) for stage in range(plan.pipeline_parallel)]
    count = len(plan.lengths_tokens)
    return {
        **flat_plan(plan),
        "label": "simulated",
        "solver": solver,
        "profile_kind": profile_kind,
        "offload_share": [
            sum(part.offload_share[index] for part in plan.parts) / len(plan.parts)
            for index in range(count)
        ],
        "recompute_units": [
            list(dict.fromkeys(name for part in plan.parts for name in part.recompute_units[index]))
            for index in range(count)
        ],
        "predicted_peak_bytes": [stage.total for stage in memory],
        "predicted_untracked_bytes": [stage.untracked.total for stage in memory],
        "predicted_activation_peak_bytes": [stage.activations_peak for stage in memory],
        "predicted_host_bytes": [stage.host for stage in memory],
        "predicted_collectives": [stage.calls for stage in shared],
        "predicted_collective_bytes": [stage.bytes for stage in shared],
    }
