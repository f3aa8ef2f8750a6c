"""What the commands of the nodes say to each other, as JSON. Node 0 is the head of the others."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from benchmarks.job import Job
from benchmarks.launch.options import Options
from benchmarks.nodes.facts import Facts
from sppo.config.workload import Workload


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="message"):
    pass


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """A node comes. nodes: how many nodes it was started for. environment: as in a record.

    problem: why it cannot take part; "" if it can.
    """

    rank: int
    nodes: int
    facts: Facts
    environment: dict[str, Any]
    problem: str = ""


class Welcome(_Message, frozen=True, kw_only=True, tag="welcome"):
    """To all nodes, once all have come and are equal."""


class Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    """To all nodes: nothing starts."""

    reason: str


class Prepare(_Message, frozen=True, kw_only=True, tag="prepare"):
    """Write weights and tokens."""

    workload: Workload
    options: Options


class Prepared(_Message, frozen=True, kw_only=True, tag="prepared"):
    """Digests of the files that were written; else the reason why they were not."""

    weights_sha256: str = ""
    tokens_sha256: str = ""
    problem: str = ""


class Launch(_Message, frozen=True, kw_only=True, tag="launch"):
    """Start the ranks of this node. number: of the launch, from 1."""

    number: int
    job: Job
    environment: dict[str, str]
    endpoint: str
    limit_seconds: float


class AskNotes(_Message, frozen=True, kw_only=True, tag="ask-notes"):
    """Send the notes of the ranks, which still run."""

    number: int


class Stop(_Message, frozen=True, kw_only=True, tag="stop"):
    """Stop the ranks of a launch."""

    number: int


class File(_Message, frozen=True, kw_only=True, tag="file"):
    """A file of a launch. whole: False where only the end of a long log is sent."""

    number: int
    name: str
    content: bytes
    whole: bool = True


class NotesSent(_Message, frozen=True, kw_only=True, tag="notes-sent"):
    """The answer to AskNotes, after the files."""

    number: int


class Ended(_Message, frozen=True, kw_only=True, tag="ended"):
    """The ranks of a node have ended, after their files. code: None where they were stopped.

    problem: why nothing could be launched or recorded; "" otherwise.
    """

    number: int
    code: int | None
    problem: str = ""


class Beat(_Message, frozen=True, kw_only=True, tag="beat"):
    """A sign of life."""


class Leave(_Message, frozen=True, kw_only=True, tag="leave"):
    """A node ends before the run does."""

    reason: str


class Close(_Message, frozen=True, kw_only=True, tag="close"):
    """The run is over; the exit code of all nodes."""

    code: int


Message: TypeAlias = (
    Hello
    | Welcome
    | Refused
    | Prepare
    | Prepared
    | Launch
    | AskNotes
    | Stop
    | File
    | NotesSent
    | Ended
    | Beat
    | Leave
    | Close
)
"""Any message. The tag in `message` decides the type."""
