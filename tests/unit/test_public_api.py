"""`from sppo import ...`: the public names, and where they come from."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import sppo


def _imports_for_editors() -> dict[str, str]:
    """Public name -> "module:definition", as the TYPE_CHECKING block of the package has them."""
    tree = ast.parse(Path(sppo.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: f"{statement.module}:{alias.name}"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def test_editors_and_python_see_the_same_names() -> None:
    assert _imports_for_editors() == sppo._DEFINED_IN
    assert set(sppo.__all__) == set(sppo._DEFINED_IN)
    assert len(sppo.__all__) == len(set(sppo.__all__))


@pytest.mark.parametrize("name", sppo.__all__)
def test_every_name_is_the_definition_it_says(name: str) -> None:
    module, definition = sppo._DEFINED_IN[name].split(":")
    assert getattr(sppo, name) is getattr(import_module(module), definition)


def test_completion_lists_the_names() -> None:
    assert set(sppo.__all__) <= set(dir(sppo))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sppo' has no attribute 'Planner'"):
        sppo.Planner  # noqa: B018
