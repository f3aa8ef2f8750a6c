"""Workload files: a workload as TOML, with every field of its dataclasses.

`sppo-bench list --show NAME` writes such a file, and all commands take its path as WORKLOAD.
"""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
import tomli_w

from benchmarks.file_names import openable, printable
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads import find as find_named
from sppo.config.errors import NotSupported
from sppo.config.models import MODELS, Model
from sppo.config.workload import Cluster, Optimizer, Workload

SUFFIX = ".toml"
CURE = "`sppo-bench list --show tiny-cpu` prints a whole file"
HEAD = "# A workload of sppo-bench (docs/workloads.md). A field left out has its default.\n"

MOST_BYTES = 2**20
MOST_RANKS = 2**20

CHANGEABLE = ("device_memory_bytes", "text", "data_field", "tokenizer")
"""Fields in which a file may differ from the named workload of the same name, as by flags."""

_NAME = re.compile(r"[a-zA-Z0-9][\w.+-]{0,79}", re.ASCII)
_DERIVED = re.compile(r"-[0-9]+-(nodes|sequences)$", re.ASCII)

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
_Degree = Annotated[int, msgspec.Meta(ge=1, le=MOST_RANKS)]
_Bytes = Annotated[int, msgspec.Meta(ge=1, le=2**60)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
_Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


def _table(kind: type, **types: Any) -> type[msgspec.Struct]:
    """A Struct with the fields and defaults of a dataclass, which refuses unknown ones."""
    hints = {**get_type_hints(kind), **types}
    columns = [
        (field.name, hints[field.name], *([] if field.default is MISSING else [field.default]))
        for field in fields(kind)
    ]
    return msgspec.defstruct(
        f"{kind.__name__}Table", columns, kw_only=True, forbid_unknown_fields=True
    )


_SIZES = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocabulary")
_ModelTable = _table(
    Model, **dict.fromkeys(_SIZES, _Count), rope_theta=_Positive, norm_epsilon=_Positive
)
_ClusterTable = _table(Cluster, nodes=_Degree, ranks_per_node=_Degree)
_OptimizerTable = _table(
    Optimizer,
    learning_rate=_Positive,
    beta1=_Decay,
    beta2=_Decay,
    epsilon=_Positive,
    weight_decay=Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)],
    clip_norm=_Positive,
)
_WorkloadTable = _table(
    Workload,
    model=_ModelTable | str,
    cluster=_ClusterTable,
    optimizer=_OptimizerTable,
    sequence_tokens=Annotated[int, msgspec.Meta(ge=2, le=2**40)],
    sequences_per_step=_Degree,
    device_memory_bytes=_Bytes | None,
    host_memory_bytes=_Bytes | None,
    sequence_parallel=_Degree | None,
    pipeline_parallel=_Degree | None,
    text=_Text,
    data_field=_Text | None,
    tokenizer=_Text | None,
    seed=Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)],
)


def find(name: str) -> Workload:
    """The named workload; else that of a file, whose name ends in .toml or has a slash.

    Raises ValueError in one line, with the cure.
    """
    if name in WORKLOADS or not (name.endswith(SUFFIX) or "/" in name):
        return find_named(name)
    return read(openable(name))


def read(path: Path) -> Workload:
    """The workload of a file. Raises ValueError in one line, with the cure."""
    try:
        return _checked(_workload(_values(path)))
    except (ValueError, msgspec.ValidationError, NotSupported) as error:
        words = f"{path}: {error}"
        raise ValueError(printable(words if CURE in words else f"{words}; {CURE}")) from None


def text(workload: Workload) -> str:
    """The workload as TOML. TOML has no null: a field that is None is left out."""
    values: dict[str, Any] = msgspec.to_builtins(workload)
    return HEAD + tomli_w.dumps({key: each for key, each in values.items() if each is not None})


def _values(path: Path) -> dict[str, Any]:
    """The TOML values. Raises ValueError."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("this is no file")
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read this workload file: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"over {MOST_BYTES:,} bytes, so this is no workload file")
    try:
        values: dict[str, Any] = msgspec.toml.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"no TOML: {error}") from None
    except RecursionError:
        raise ValueError("no TOML: nested too deeply") from None
    return values


def _workload(values: dict[str, Any]) -> Workload:
    """The workload of the values. Raises ValueError or ValidationError."""
    table: dict[str, Any] = msgspec.to_builtins(msgspec.convert(values, _WorkloadTable))
    if isinstance(table["model"], str):
        name = table["model"]
        if name not in MODELS:
            raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
        table["model"] = msgspec.to_builtins(MODELS[name])
    for field in ("text", "tokenizer"):
        table[field] = table[field] and printable(table[field])
    return msgspec.convert(table, Workload)


def _checked(workload: Workload) -> Workload:
    """The same workload. Raises ValueError or NotSupported on what cannot be run or told apart."""
    from sppo.config.hardware import load_hardware

    check_name("name", workload.name)
    if _DERIVED.search(workload.name):
        raise ValueError(
            f"name {workload.name!r}: names that end in -N-nodes or -N-sequences are those of "
            "--nodes and --sequences-per-step; take another"
        )
    check_name("model.name", workload.model.name)
    cluster = workload.cluster
    if cluster.ranks > MOST_RANKS:
        raise ValueError(f"{cluster.ranks:,} ranks: write at most {MOST_RANKS:,}")
    device = load_hardware(cluster.hardware).device
    if cluster.device != device:
        raise ValueError(f"cluster.device is {cluster.device!r}: {cluster.hardware} is a {device}")
    _check_reserved("model", workload.model, MODELS.get(workload.model.name))
    named = WORKLOADS.get(workload.name)
    if named is not None:
        changes: dict[str, Any] = {field: getattr(workload, field) for field in CHANGEABLE}
        _check_reserved("workload", workload, replace(named, **changes))
    return workload


def check_name(what: str, name: str) -> None:
    """Raise ValueError where a name must not become a part of file names and scripts."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r} becomes a part of file names: take up to 80 letters, digits, '.', "
            "'_', '-' or '+', the first a letter or a digit"
        )


def _check_reserved(kind: str, ours: Workload | Model, known: Workload | Model | None) -> None:
    """Raise ValueError where a known name stands for other numbers: results go by the name."""
    if known is None or ours == known:
        return
    names = (field.name for field in fields(known))
    other = [name for name in names if getattr(ours, name) != getattr(known, name)]
    raise ValueError(
        f"the {kind} {known.name} of the suite has other values of {', '.join(other)}: give this "
        f"{kind} a name of its own"
    )
