"""What is trained on what: model, workload, cluster, hardware and their sizes."""

from sppo.config.errors import HostTierFull, Infeasible, NotBuilt, Short
from sppo.config.hardware import Hardware, Rates, known_profiles, load_hardware
from sppo.config.models import MODELS, Model, gpt, llama
from sppo.config.sharding import Shard
from sppo.config.sizes import (
    DTYPE_BYTES,
    GIB,
    KIB,
    MIB,
    Dtype,
    format_bytes,
    length_name,
    parse_bytes,
    parse_tokens,
)
from sppo.config.workload import Cluster, Optimizer, Workload

__all__ = [
    "DTYPE_BYTES",
    "GIB",
    "KIB",
    "MIB",
    "MODELS",
    "Cluster",
    "Dtype",
    "Hardware",
    "HostTierFull",
    "Infeasible",
    "Model",
    "NotBuilt",
    "Optimizer",
    "Rates",
    "Shard",
    "Short",
    "Workload",
    "format_bytes",
    "gpt",
    "known_profiles",
    "length_name",
    "llama",
    "load_hardware",
    "parse_bytes",
    "parse_tokens",
]
