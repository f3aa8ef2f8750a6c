"""Folders of data files: those of the checkout, or the user's data folder where installed.

An installed package must not write into itself. The user's measurements go to the user's data
folder (`XDG_DATA_HOME` on Linux), which is also read first.
"""

from __future__ import annotations

from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that the packages lie in."""


def in_checkout() -> bool:
    """Whether the packages are those of a working tree, editable installs included."""
    return (PACKAGES / "pyproject.toml").is_file()


def user_folder() -> Path:
    """The user's data folder of this project; it need not exist."""
    from platformdirs import user_data_path

    return user_data_path("sppo-suite", appauthor=False)
