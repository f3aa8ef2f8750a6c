"""The calls of wandb: in its own environment, and with every error of wandb as one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from unittest.mock import patch

from benchmarks.file_names import printable

T = TypeVar("T")

PREFIX = "WANDB_"

IDENTITY = frozenset(("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_NAME"))
"""Variables that name one run, where a command has several."""

LONGEST_WORDS = 300
"""Characters of an error that are shown."""

FINISH_SECONDS = 60
"""How long the end of a run waits for the upload, unless the user says. All stays on disk."""

TRACKER_ERRORS = (
    ImportError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    AssertionError,
)
"""What wandb and its libraries raise on odd variables, places and servers, besides wandb.Error."""


class Session(AbstractContextManager["Session"]):
    """wandb for one command, imported at the first call. After an error it does nothing more.

    error: in one line, None without. No fault of a tracker may lose a measurement. There is no
    network access unless WANDB_MODE asks for it.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.module: ModuleType | None = None

    def __exit__(self, *_: object) -> None:
        """End wandb's process."""
        module = self.module
        if module is not None:
            with suppress(*TRACKER_ERRORS, module.Error), wandb_environment(None):
                module.teardown()

    @property
    def is_off(self) -> bool:
        """Whether nothing is written: after an error, and with WANDB_MODE=disabled."""
        return self.error is not None or os.environ.get("WANDB_MODE") == "disabled"

    def call(self, action: Callable[[Any], T], directory: Path | None) -> T | None:
        """The result of a function of the module `wandb`; None after an error.

        directory: gets the files of wandb unless WANDB_DIR names another folder.
        """
        if self.is_off:
            return None
        try:
            with wandb_environment(directory):
                return self._act(action)
        except (*TRACKER_ERRORS, Refused) as error:
            self.error = _in_one_line(error)
            return None

    def _act(self, action: Callable[[Any], T]) -> T:
        """The result of the action. Raises Refused for an error of wandb's own."""
        if self.module is None:
            import wandb

            self.module = wandb
            # On a full disk each line of wandb's log would print a traceback.
            logging.raiseExceptions = False
        try:
            return action(self.module)
        except self.module.Error as error:
            raise Refused(str(error) or type(error).__name__) from None


class Refused(Exception):
    """An error that wandb names."""


def _in_one_line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    words = words if len(words) <= LONGEST_WORDS else f"{words[: LONGEST_WORDS - 1]}…"
    return f"wandb: {words}; the records are complete without it"


@contextmanager
def wandb_environment(directory: Path | None) -> Iterator[None]:
    """The environment and the arguments that wandb sees, for the time of a call.

    Other variables stay as they are at every moment: other threads may start processes.
    """
    before = _own(os.environ)
    during = variables(before)
    if directory is not None:  # wandb copies tables there before the upload
        during.setdefault("WANDB_DATA_DIR", str(wandb_directory(directory)))
        if not has_cache_folder(os.environ):  # wandb's process would log to standard error
            during.setdefault("WANDB_CACHE_DIR", str(wandb_directory(directory) / "cache"))
    arguments = list(map(printable, sys.argv))  # wandb sends them, and knows Unicode only
    with patch.object(sys, "argv", arguments):
        _set(during)
        try:
            yield
        finally:
            _set(before)


def _own(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(PREFIX)}


def _set(values: Mapping[str, str]) -> None:
    """Make these the only variables of wandb."""
    for name in _own(os.environ):
        if name not in values:
            del os.environ[name]
    os.environ.update(values)


def variables(own: Mapping[str, str]) -> dict[str, str]:
    """wandb's variables for wandb: an empty one is an unset one, and no identity is shared.

    WANDB_RUN_ID gives one id to every run of a command, and a server merges them. WANDB_RESUME and
    WANDB_SWEEP_ID ask for a run that is there already.
    """
    kept = {name: value for name, value in own.items() if value and name not in IDENTITY}
    kept.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))
    return {**kept, "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}


def has_cache_folder(environment: Mapping[str, str]) -> bool:
    """Whether wandb's process can write to the user's cache folder, which is made if need be."""
    home = environment.get("HOME")
    folder = environment.get("XDG_CACHE_HOME") or (home and os.path.join(home, ".cache"))
    if not folder:
        return False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def wandb_directory(directory: Path) -> Path:
    """The folder that gets wandb's own folders of runs."""
    return Path(os.environ.get("WANDB_DIR") or directory).absolute() / "wandb"
