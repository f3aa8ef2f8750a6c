"""The description of a machine, from made-up trees of /sys and of container runtimes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import nvml
from benchmarks.environment import describe_environment
from benchmarks.machine import files, system
from benchmarks.machine.container import container
from benchmarks.machine.fabric import describe_fabric
from benchmarks.machine.variables import FAMILIES, HIDDEN, recorded_variables, without_secrets
from benchmarks.worker.libraries import cuda_versions

CHECKOUT = Path(__file__).parents[2]


def tree(root: Path, contents: dict[str, str]) -> Path:
    """A folder with these files. "-> NAME" is a link to a driver's folder."""
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(f"/nowhere/drivers/{text[3:]}")
        else:
            path.write_text(text)
    return root


FABRIC = {
    "class/infiniband/mlx5_0/fw_ver": "28.39.1002\n",
    "class/infiniband/mlx5_0/board_id": "MT_0000000838\n",
    "class/infiniband/mlx5_0/node_guid": "a088:c203:00ab:cdef\n",
    "class/infiniband/mlx5_0/device/driver": "-> mlx5_core",
    "class/infiniband/mlx5_0/device/numa_node": "1\n",
    "class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE\n",
    "class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)\n",
    "class/infiniband/mlx5_0/ports/1/link_layer": "InfiniBand\n",
    "class/infiniband/rdmap0s6/device/driver": "-> efa",
    "class/infiniband/rdmap0s6/device/numa_node": "-1\n",
    "class/net/ib0/operstate": "up\n",
    "class/net/ib0/speed": "400000\n",
    "class/net/ib0/mtu": "4092\n",
    "class/net/ib0/address": "00:00:10:49:fe:80\n",
    "class/net/ib0/device/driver": "-> mlx5_core",
    "class/net/enx0a1b2c3d4e5f/speed": "-1\n",
    "class/net/lo/operstate": "unknown\n",
    "class/net/veth12ab/operstate": "up\n",
    "module/nvidia_peermem/version": "570.124\n",
}


def test_ports_and_interfaces_are_named_without_addresses(tmp_path: Path) -> None:
    tree(tmp_path, FABRIC)
    (tmp_path / "class/infiniband/rdmap0s6/ports/1").mkdir(parents=True)
    fabric = describe_fabric(tmp_path)
    first, second = fabric["infiniband"]
    assert first == {
        "device": "mlx5_0",
        "port": "1",
        "state": "ACTIVE",
        "rate": "400 Gb/sec (4X NDR)",
        "link_layer": "InfiniBand",
        "driver": "mlx5_core",
        "firmware": "28.39.1002",
        "board": "MT_0000000838",
        "numa_node": 1,
    }
    assert (second["driver"], second["rate"], second["numa_node"]) == ("efa", None, None)
    hidden, ib0 = fabric["interfaces"]
    assert (hidden["name"], hidden["speed_mbits"]) == ("enx<address>", None)
    assert (ib0["name"], ib0["speed_mbits"], ib0["mtu"]) == ("ib0", 400_000, 4092)
    assert fabric["modules"] == ["nvidia_peermem"]
    text = json.dumps(fabric)
    assert [secret for secret in ("a088", "fe:80", "0a1b2c3d4e5f") if secret in text] == []


NUMA = {
    "devices/system/node/node1/cpulist": "64-127\n",
    "devices/system/node/node1/meminfo": "Node 1 MemTotal:       2048 kB\n",
    "devices/system/node/node1/distance": "21 10\n",
    "devices/system/node/node0/cpulist": "0-63\n",
    "devices/system/node/nodes/cpulist": "no number\n",
    "bus/pci/devices/0000:0f:00.0/vendor": "0x10de\n",
    "bus/pci/devices/0000:0f:00.0/class": "0x030200\n",
    "bus/pci/devices/0000:0f:00.0/numa_node": "1\n",
    "bus/pci/devices/0000:05:00.0/vendor": "0x10de\n",
    "bus/pci/devices/0000:05:00.0/class": "0x068000\n",
    "bus/pci/devices/0000:05:00.0/numa_node": "1\n",
}


def test_memory_domains_have_their_cores_and_gpus(tmp_path: Path) -> None:
    first, second = system.numa(tree(tmp_path, NUMA))
    assert first == {"node": 0, "cpus": "0-63", "memory_bytes": None, "distances": [], "gpus": []}
    assert second["gpus"] == ["0000:0f:00.0"], "a bridge of NVIDIA is no GPU"
    assert (second["memory_bytes"], second["distances"]) == (2048 * 1024, [21, 10])


def test_what_cannot_be_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in place of a file, a link in a circle, a file that the kernel refuses, bytes."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "bytes").write_bytes(b"4\xff\x1b[2J\n7")
    assert [files.line_of(tmp_path / name) for name in ("folder", "circle", "none")] == [None] * 3
    assert files.number_of(tmp_path / "bytes") is None
    assert files.line_of(tmp_path / "bytes") == "4\ufffd\\x1b[2J\\x0a7"
    sys = tree(tmp_path / "sys", {**FABRIC, **NUMA})

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert describe_fabric(sys)["interfaces"][1]["speed_mbits"] is None
    assert [node["cpus"] for node in system.numa(sys)] == [None, None]
    monkeypatch.setattr(Path, "glob", refuse)
    assert describe_fabric(sys)["infiniband"] == []


LABELS = {
    "org.label-schema.usage.singularity.deffile.from": "nvidia/cuda:12.8.1-devel-ubuntu24.04",
    "org.opencontainers.image.version": 3,
    "maintainer": "somebody@example.org",
}
PODMAN = 'engine="podman-5.2"\nimage="nvcr.io/nvidia/pytorch:25.09-py3"\nimageid="ab12"\n'


@pytest.mark.parametrize(
    ("contents", "variables", "kind", "image"),
    [
        ({}, {}, None, None),
        ({".dockerenv": ""}, {}, "docker", None),
        ({"run/.containerenv": PODMAN}, {}, "podman", "nvcr.io/nvidia/pytorch:25.09-py3"),
        ({"run/.containerenv": ""}, {"container": "oci"}, "podman", None),
        ({}, {"APPTAINER_CONTAINER": "/home/me/a.sif"}, "apptainer", "a.sif"),
        ({}, {"SINGULARITY_CONTAINER": "docker://u:p@h/a:1"}, "singularity", "docker://h/a:1"),
        ({".singularity.d/labels.json": "{"}, {}, "apptainer", None),
        ({}, {"container": "lxc\n"}, "lxc", None),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes", None),
    ],
)
def test_a_container_is_named_as_far_as_its_runtime_tells(
    contents: dict[str, str],
    variables: dict[str, str],
    kind: str | None,
    image: str | None,
    tmp_path: Path,
) -> None:
    described = container(tree(tmp_path, contents), variables)
    known = None if described is None else (described["kind"], described["image"])
    assert known == (None if kind is None else (kind, image))


def test_only_known_labels_of_an_image_are_kept(tmp_path: Path) -> None:
    tree(tmp_path, {".singularity.d/labels.json": json.dumps(LABELS)})
    described = container(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert described is not None
    assert list(described["labels"].values()) == ["nvidia/cuda:12.8.1-devel-ubuntu24.04"]
    assert described["kubernetes"]


def test_variables_of_the_network_are_recorded_without_secrets() -> None:
    variables = {
        "NCCL_SOCKET_IFNAME": "ib0",
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
        "FI_PROVIDER": "e",
        "NCCL_AUTH_TOKEN": "s3cret",
        "UCX_PROXY": "http://me:s3cret@proxy",
        "FI_KEY": "s3cret",
        "NCCL_IB_PKEY": "3",
        "WANDB_API_KEY": "s3cret",
        "HOME": "/home/me",
        "GLOO_\udce9": "\n",
        "SPPO_BENCH_TOKEN": "s3cret",
        "FI_PWD": "s3cret",
        "NCCL_X": "https://host/a?token=s3cret",
        "UCX_Y": "Bearer s3cret",
        "GLOO_Z": "me:s3cret@host",
        "NCCL_COMM_ID": "10.0.0.1:99",
        "NCCL_OOB_NET_IFNAME": "enx0a1b2c3d4e5f",
        "CUDA_VERSION": "12.8.1.0",
    }
    recorded = recorded_variables(variables)
    assert "s3cret" not in json.dumps(recorded)
    assert recorded["NCCL_SOCKET_IFNAME"] == "ib0"
    assert recorded["NCCL_IB_PKEY"] == "3", "the number of a partition"
    hidden = {name for name, value in recorded.items() if value == HIDDEN}
    secrets = {"NCCL_AUTH_TOKEN", "UCX_PROXY", "FI_KEY", "FI_PWD", "NCCL_X", "UCX_Y", "GLOO_Z"}
    assert hidden == {*secrets, "NCCL_COMM_ID", "NCCL_OOB_NET_IFNAME"}
    assert recorded[r"GLOO_\xe9"] == r"\x0a"
    assert not {"HOME", "WANDB_API_KEY", "SPPO_BENCH_TOKEN"} & set(recorded)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:s3cret@host:8080/a.git?token=s3cret#s3cret", "https://host:8080/a.git"),
        ("ssh://git@host/a.git", "ssh://git@host/a.git"),
        ("ssh://git:s3cret@host/a.git", "ssh://host/a.git"),
        ("https://[s3cret", ""),
    ],
)
def test_an_address_is_shown_without_its_login(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_tox_passes_all_that_records_and_launches_read() -> None:
    tox = ConfigParser(interpolation=None)
    tox.read(CHECKOUT / "tox.ini")
    passed = tox["testenv"]["pass_env"].split()
    assert {f"{family}*" for family in (*FAMILIES, "SLURM_", "SPPO_BENCH_")} <= set(passed)


OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n"
MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC\n"


@pytest.mark.parametrize(
    ("text", "version"), [(OPEN_MODULE, "550.54.15"), (MODULE, "535.104.05"), ("\x1b", None)]
)
def test_the_kernel_names_the_driver_where_nvml_is_absent(
    text: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "start", lambda: None)
    driver = nvml.describe_driver(tree(tmp_path, {"driver/nvidia/version": text}))
    assert driver == (None if version is None else {"version": version, "cuda": None})


def test_nvml_names_the_driver_and_its_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(
        NVMLError=OSError,
        nvmlSystemGetDriverVersion=lambda: b"570.124",
        nvmlSystemGetCudaDriverVersion=lambda: 12080,
    )
    monkeypatch.setattr(nvml, "start", lambda: library)
    assert nvml.describe_driver() == {"version": "570.124", "cuda": "12.8"}


def _refuse() -> Any:
    raise RuntimeError("no NCCL in this build")


@pytest.mark.parametrize(("nccl", "version"), [(lambda: (2, 27, 5), "2.27.5"), (_refuse, None)])
def test_a_rank_names_the_libraries_that_torch_loaded(
    nccl: Callable[[], Any], version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda.nccl, "version", nccl)
    versions = cuda_versions(torch.device("cuda", 0))
    assert (versions["cuda"], versions.get("nccl")) == ("12.8", version)
    assert cuda_versions(torch.device("cpu")) == {}


def test_the_page_of_records_names_every_key_of_the_environment(tmp_path: Path) -> None:
    described = describe_environment()
    fabric = describe_fabric(tree(tmp_path, FABRIC))
    (domain, *_) = system.numa(tree(tmp_path / "numa", NUMA))
    inside = container(tree(tmp_path / "inside", {".dockerenv": ""}), os.environ)
    assert inside is not None
    objects = (described, described["limits"], described["packages"], inside, domain, fabric)
    entries = (fabric["infiniband"][0], fabric["interfaces"][0])
    keys = {key for values in (*objects, *entries) for key in values}
    text = (CHECKOUT / "docs" / "record.md").read_text()
    assert sorted(key for key in keys if f"`{key}`" not in text) == []
