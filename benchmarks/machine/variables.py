"""Environment variables that change results, without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from benchmarks.file_names import printable

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_MODULE_LOADING",
    "CUDA_VERSION",
    "NVIDIA_PRODUCT_NAME",
    "NVIDIA_PYTORCH_VERSION",
    "NVIDIA_BUILD_ID",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "DS_ACCELERATOR",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "SPPO_BENCH_NUMA_BINDING",
    "WANDB_MODE",
    "WANDB_PROJECT",
    "WANDB_RUN_GROUP",
)
"""Recorded variables by name. CUDA_VERSION and NVIDIA_* are those of NVIDIA's containers."""

FAMILIES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "FI_", "UCX_")
"""Beginnings of recorded variables: those of the network's libraries."""

HIDDEN = "(hidden)"
"""The recorded value of a variable that may be a secret, or that holds an address."""

_SECRET = re.compile(r"SECRET|TOKEN|PASSW|PWD|PASSPHRASE|CRED|AUTH|APIKEY|(^|_)KEYS?(_|$)")
_SECRET_VALUE = re.compile(
    r"[^/\s:]+:[^/\s@]*@|://[^/\s]*@|\bbearer\s|[?&](token|sig|signature|key|password)=",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"\b\d{1,3}(\.\d{1,3}){3}\b|([0-9a-f]{2}:){5}[0-9a-f]{2}|enx[0-9a-f]{12}", re.IGNORECASE
)


def recorded_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of the two lists that are set, by name."""
    names = {name for name in variables if name in VARIABLES or name.startswith(FAMILIES)}
    return {
        printable(name): _value(name, variables[name])
        for name in sorted(names, key=lambda name: (name not in VARIABLES, name))
    }


def _value(name: str, value: str) -> str:
    is_secret = _SECRET.search(name.upper()) or _SECRET_VALUE.search(value)
    is_address = name.startswith(FAMILIES) and _ADDRESS.search(value)
    return HIDDEN if is_secret or is_address else printable(value)


def without_secrets(url: str) -> str:
    """The address without login, query and fragment; "" for one that cannot be read.

    The user `git` of an ssh address is part of the address.
    """
    try:
        parts = urlsplit(url)
        user, at, place = parts.netloc.rpartition("@")
        keeps_user = parts.scheme.endswith("ssh") and user == "git"
        netloc = f"git@{place}" if at and keeps_user else place
        return parts._replace(netloc=netloc, query="", fragment="").geturl()
    except ValueError:
        return ""
