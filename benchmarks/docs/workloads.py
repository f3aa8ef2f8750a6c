"""The named workloads and the shapes of the models."""

from __future__ import annotations

from benchmarks.docs.markdown import Columns, table
from benchmarks.workloads import WORKLOADS
from sppo.config.models import MODELS, Model
from sppo.config.sizes import length_name, limit_words
from sppo.plan.weights import parameter_count

MILLION = 1e6


def workloads() -> str:
    """A row for each workload of `sppo-bench list`."""
    columns: Columns = {
        "workload": lambda workload: f"`{workload.name}`",
        "model": lambda workload: f"`{workload.model.name}`",
        "tokens of a sequence": lambda workload: length_name(workload.sequence_tokens),
        "sequences a step": lambda workload: str(workload.sequences_per_step),
        "nodes x ranks": lambda workload: (
            f"{workload.cluster.nodes} x {workload.cluster.ranks_per_node}"
        ),
        "hardware profile": lambda workload: f"`{workload.cluster.hardware}`",
        "dtype": lambda workload: workload.dtype,
        "device memory of a rank": lambda workload: limit_words(workload.device_memory_bytes),
    }
    return table(columns, WORKLOADS.values())


def models() -> str:
    """A row for each model that a flag or a workload names, the smallest first."""
    columns: Columns = {
        "model": lambda model: f"`{model.name}`",
        "parameters": lambda model: _parameters(parameter_count(model)),
        "layers": lambda model: str(model.layers),
        "hidden": lambda model: f"{model.hidden:,}",
        "heads": lambda model: str(model.heads),
        "KV heads": lambda model: str(model.kv_heads),
        "MLP width": lambda model: f"{model.ffn:,}",
        "vocabulary": lambda model: f"{model.vocabulary:,}",
        "norm": lambda model: model.norm,
        "activation function": lambda model: model.activation,
    }
    return table(columns, sorted(_models(), key=parameter_count))


def _models() -> list[Model]:
    """The models of `--model`, and those that only a workload has."""
    named = {workload.model.name: workload.model for workload in WORKLOADS.values()}
    return list({**named, **MODELS}.values())


def _parameters(count: int) -> str:
    """A count as "3.29 M" or "6,856 M"."""
    millions = count / MILLION
    return f"{millions:,.0f} M" if millions >= 100 else f"{millions:.3g} M"
