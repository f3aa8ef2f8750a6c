"""Every JSON key that the suite publishes is explained on the page of its file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.docs_text import CHECKOUT

EMULATION = "emulation/gpt-7b-4m-128xa100-sppo"
POINTS = "emulation/fig10-4-sequences"
LENGTHS = "emulation/fig12-1-sequences"


def keys_at(file: str, path: str) -> list[str]:
    """Keys of an object in a committed file; of a list, those of its first entry."""
    value: Any = json.loads((CHECKOUT / file).read_text())
    for step in path.split(".") if path else []:
        value = value[step]
        value = value[0] if isinstance(value, list) else value
    return list(value)


@pytest.mark.parametrize(
    ("page", "name", "path"),
    [
        ("emulation.md", EMULATION, ""),
        ("emulation.md", EMULATION, "roles"),
        ("emulation.md", EMULATION, "roles.counts"),
        ("emulation.md", EMULATION, "roles.counts.communication"),
        ("emulation.md", EMULATION, "simulated_time"),
        ("emulation.md", EMULATION, "planned"),
        ("paper.md", POINTS, ""),
        ("paper.md", POINTS, "verdicts"),
        ("paper.md", LENGTHS, "longest"),
        ("sweeps.md", "longest/tiny-cpu-136MiB", ""),
        ("sweeps.md", "longest/tiny-cpu-136MiB", "trials"),
        ("sweeps.md", "sweeps/tiny-cpu-device-memory", ""),
        ("sweeps.md", "sweeps/tiny-cpu-device-memory", "values"),
        ("sweeps.md", "sweeps/tiny-cpu-device-memory", "values.rows"),
        ("sweeps.md", "ablation/tiny-cpu-136MiB", ""),
        ("sweeps.md", "ablation/tiny-cpu-136MiB", "policies"),
    ],
)
def test_every_published_key_is_explained(page: str, name: str, path: str) -> None:
    text = (CHECKOUT / "docs" / page).read_text()
    keys = keys_at(f"results/published/{name}.json", path)
    assert [key for key in keys if f"`{key}`" not in text] == []


@pytest.mark.parametrize("path", ["", "items"])
def test_every_key_of_the_paper_s_pages_is_explained(path: str) -> None:
    text = (CHECKOUT / "docs" / "paper.md").read_text()
    keys = keys_at("results/paper/pages/index.json", path)
    assert [key for key in keys if f"`{key}`" not in text] == []


@pytest.mark.parametrize("path", ["", "plans", "plans.place", "searches"])
def test_every_key_of_the_map_is_explained(path: str) -> None:
    text = (CHECKOUT / "docs" / "paper.md").read_text()
    keys = keys_at("results/paper/map.json", path)
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_every_field_of_a_hardware_profile_is_explained() -> None:
    text = (CHECKOUT / "docs" / "hardware.md").read_text()
    profile = "sppo/config/hardware_profiles/a100-80g.json"
    keys = [*keys_at(profile, ""), *keys_at(profile, "rates")]
    assert [key for key in keys if f"`{key}`" not in text] == []
