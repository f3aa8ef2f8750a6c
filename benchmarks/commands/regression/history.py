"""`sppo-bench history`: metrics over commits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Union

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from benchmarks.commands.regression.history_actions import Add, Export, Show

Action = Union[  # noqa: UP007
    Annotated[Add, subcommand("add")],
    Annotated[Show, subcommand("show")],
    Annotated[Export, subcommand("export")],
]


@dataclass(frozen=True, kw_only=True)
class History:
    """Metrics over commits: add runs, show changes, export to other tools.

    Example: sppo-bench history add results/runs/20261124-072759-tiny-cpu

    Example: sppo-bench history show --metric /sppo/step_seconds --png history.png
    """

    action: Annotated[Action, OmitArgPrefixes, OmitSubcommandPrefixes]

    def run(self) -> int:
        """Do the action; the exit code. Raises UsageError."""
        return self.action.run()
