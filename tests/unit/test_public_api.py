"""`from sppo import ...`: the public names, and what they load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sppo


@pytest.mark.parametrize("name", sppo.__all__)
def test_every_public_name_is_there(name: str) -> None:
    definition = getattr(sppo, name)
    assert definition.__module__.startswith("sppo.") if callable(definition) else definition


def test_nothing_is_loaded_before_a_name_is_asked_for() -> None:
    code = "import sys, sppo; assert not any(name.startswith('sppo.') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_completion_lists_the_names() -> None:
    assert set(sppo.__all__) <= set(dir(sppo))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="sppo"):
        sppo.Planner  # type: ignore[attr-defined]  # noqa: B018
