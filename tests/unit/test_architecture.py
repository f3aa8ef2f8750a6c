"""The rooms and the arrows between them."""

from __future__ import annotations

from pathlib import Path


def test_arrows_point_one_way() -> None:
    """The import-linter contracts of pyproject.toml."""
    from importlinter.cli import lint_imports

    config = Path(__file__).parents[2] / "pyproject.toml"
    assert lint_imports(config_filename=str(config), no_cache=True) == 0
