"""Node 0 and one other node, without a launch: what is asked, taken, merged and lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import workloads
from benchmarks.cli import main
from benchmarks.commands import several_nodes
from benchmarks.job import Job
from benchmarks.launch.options import Options
from benchmarks.launch.ranks import ends, processes
from benchmarks.launch.ranks.ends import RankEnd, Stop
from benchmarks.launch.ranks.processes import LaunchOptions
from benchmarks.launch.ranks.team import ONE_NODE, NodeFailed, NodeLost
from benchmarks.nodes import crew as crews
from benchmarks.nodes import messages, token
from benchmarks.nodes.channel import Channel
from benchmarks.nodes.crew import Crew
from benchmarks.nodes.head import Node
from benchmarks.nodes.messages import Ended, File, Hello, Launch, Leave, Prepared
from benchmarks.nodes.place import Place
from tests.unit.test_node_channel import pair, until
from tests.unit.test_nodes import FACTS

WORKLOAD = workloads.find("mini-cpu")
DIGESTS = {"tokens": "t", "weights": "w"}


def job_in(directory: Path, ranks: int = 2) -> Job:
    """A job with its files in a folder."""
    return Job(
        workload=WORKLOAD,
        system="sppo",
        row="SPPO",
        launch=1,
        settings={},
        weights_path="",
        tokens_path="",
        output_directory=str(directory),
        ranks=ranks,
        warmup_steps=0,
        measured_steps=2,
    )


class Both:
    """The crew of node 0, and the other end of its connection."""

    def __init__(self, crew: Crew, node: Channel, directory: Path, said: list[str]) -> None:
        self.crew = crew
        self.node = node
        self.directory = directory
        self.said = said

    def job(self, ranks: int = 2) -> Job:
        """A job in the folder."""
        return job_in(self.directory, ranks)

    def begin(self) -> Launch:
        """Begin a launch; what the node is asked."""
        self.crew.begin(self.job(), {"A": "1"}, 60.0)
        message = self.node.get(5)
        assert isinstance(message, Launch)
        return message

    def send_ends(self, number: int, *events: RankEnd | Stop) -> None:
        """The node's file of ends."""
        content = b"\n".join(map(msgspec.json.encode, events))
        self.node.send(File(number=number, name=ends.FILE_NAME, content=content))


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    place = Place(count=2, rank=0, host="127.0.0.1", port=1)
    hello = Hello(rank=1, nodes=2, facts=FACTS, environment={"cores": 3})
    with pair() as (head, node):
        nodes = [Node(hello=hello, channel=head, address="127.0.0.2")]
        said: list[str] = []
        yield Both(Crew(place=place, nodes=nodes, say=said.append), node, tmp_path, said)


def test_a_launch_is_asked_and_its_files_taken(both: Both) -> None:
    asked = both.begin()
    assert (asked.job, asked.environment) == (both.job(), {"A": "1"})
    both.node.send(File(number=1, name="rank-1.json", content=b"{}"))
    both.node.send(Ended(number=1, code=0))
    assert both.crew.finish(0) == ""
    assert (both.directory / "rank-1.json").read_bytes() == b"{}"


def test_one_rank_stays_on_node_0(both: Both) -> None:
    assert both.crew.begin(both.job(ranks=1), {}, 60.0) == ONE_NODE
    assert both.crew.finish(1) == ""
    assert both.node.get(0) is None


def test_ends_are_merged_by_time(both: Both) -> None:
    number = both.begin().number
    ends.append(both.directory / ends.FILE_NAME, RankEnd(rank=0, code=1, time_ns=30))
    both.send_ends(number, RankEnd(rank=1, code=-9, time_ns=20), Stop(time_ns=40, signal=15))
    both.node.send(Ended(number=number, code=1))
    both.crew.finish(1)
    assert [event.time_ns for event in ends.read(both.directory)] == [20, 30, 40]


def test_stops_by_the_suite_are_no_events(both: Both) -> None:
    number = both.begin().number
    ends.append(both.directory / ends.FILE_NAME, Stop(time_ns=10, signal=15))
    both.send_ends(number, RankEnd(rank=1, code=-15, time_ns=20), Stop(time_ns=15, signal=15))
    both.node.send(Ended(number=number, code=None))
    both.crew.finish(None)
    assert [event.time_ns for event in ends.read(both.directory)] == [20]
    assert both.node.get(5) == messages.Stop(number=number)


def test_a_node_that_failed_stops_the_ranks_here(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "FAILED_SECONDS", 0.0)
    number = both.begin().number
    both.node.send(Ended(number=number, code=1, problem="no room"))
    failures: list[NodeFailed] = []

    def has_failed() -> bool:
        try:
            both.crew.check()
        except NodeFailed as failed:
            failures.append(failed)
        return bool(failures)

    until(has_failed)
    assert both.crew.finish(None) == "node 1 (gpu01, 127.0.0.2): no room"
    both.begin()  # the next launch is not harmed


def test_messages_of_an_earlier_launch_are_ignored(both: Both) -> None:
    number = both.begin().number
    both.node.send(Ended(number=number, code=0))
    both.crew.finish(0)
    second = both.begin().number
    assert second == number + 1
    both.node.send(Ended(number=number, code=1))
    both.node.send(Ended(number=second, code=0))
    assert both.crew.finish(0) == ""


@pytest.mark.parametrize("code", [0, 1, None], ids=["ended", "failed", "stopped"])
@pytest.mark.parametrize("how", ["killed", "left", "foreign file"])
def test_a_lost_node_is_named(both: Both, how: str, code: int | None) -> None:
    number = both.begin().number
    if how == "killed":
        both.node.close()
    if how == "left":
        both.node.send(Leave(reason="its command was stopped"))
    if how == "foreign file":
        both.node.send(File(number=number, name="rank-0.json", content=b""))
    both.crew.require_all()
    both.crew.finish(code)
    with pytest.raises(NodeLost, match=r"node 1 \(gpu01, 127\.0\.0\.2\)"):
        both.crew.require_all()
    assert not (both.directory / "rank-0.json").exists()


@pytest.mark.parametrize(
    ("error", "raised"),
    [(None, NodeLost), (NodeFailed(), NodeLost), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["time limit", "failed ranks", "interrupt"],
)
def test_a_launch_without_a_node_has_no_outcome(
    both: Both,
    error: BaseException | None,
    raised: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a time limit nor failed ranks make a record; an interrupt stays one."""

    def check() -> None:
        if error is not None:
            raise error

    def sleeping(*_: Any) -> processes.ProcessTree:
        both.node.close()
        monkeypatch.setattr(both.crew, "check", check)
        return processes.start([sys.executable, "-c", "import time; time.sleep(600)"], {})

    monkeypatch.setattr(processes, "start_ranks", sleeping)
    monkeypatch.setattr(processes, "out_of_time", lambda *_: None)
    options = LaunchOptions(
        environment={},
        time_limit_seconds=0.1 if error is None else 600.0,
        on_progress=lambda progress: None,
        team=both.crew,
    )
    with pytest.raises(raised):
        processes.launch(both.job(), options)


def test_a_node_lost_before_the_first_launch_is_a_failure(
    both: Both,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not wrong input: the exit code is 1, also for the other nodes."""
    monkeypatch.setenv(token.VARIABLE, "0123456789abcdef")
    monkeypatch.setattr(several_nodes, "gather", lambda *_: both.crew.nodes)
    both.node.close()
    place = ["--nodes", "2", "--node-rank", "0", "--endpoint", "127.0.0.1:9"]
    rows = ["--systems", "sppo", "--output", str(both.directory / "results")]
    assert main(["run", "mini-cpu", "--no-wandb", *rows, *place]) == 1
    assert "error: node 1 (gpu01, 127.0.0.2) is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens_sha256": "x"}, "its tokens are not those of node 0"),
        ({"weights_sha256": "x"}, "its weights are not those of node 0"),
        ({"problem": "the disk is full"}, "node 1 (gpu01, 127.0.0.2): the disk is full"),
        ({}, ""),
    ],
)
def test_inputs_are_compared(both: Both, changes: dict[str, str], words: str) -> None:
    both.crew.prepare(WORKLOAD, Options())
    assert both.node.get(5) == messages.Prepare(workload=WORKLOAD, options=Options())
    both.node.send(Prepared(**{"weights_sha256": "w", "tokens_sha256": "t", **changes}))
    if not words:
        both.crew.check_inputs(DIGESTS, 60.0)
        assert both.said == []
        return
    with pytest.raises(OSError if "problem" in changes else ValueError, match="node 1") as error:
        both.crew.check_inputs(DIGESTS, 60.0)
    assert words in str(error.value)


def test_a_node_without_inputs_is_awaited_within_a_limit(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "SAYING_SECONDS", 0.02)
    words = r"node 1 \(gpu01, 127\.0\.0\.2\) is gone: no weights and tokens after 0 s"
    with pytest.raises(NodeLost, match=words):
        both.crew.check_inputs(DIGESTS, 0.2)
    assert "waits for weights and tokens of node 1 (gpu01" in both.said[0]


def test_every_node_is_described_and_closed(both: Both) -> None:
    described = both.crew.describe({"cores": 2})
    assert described == [
        {"node": 0, "address": "127.0.0.1", "cores": 2},
        {"node": 1, "address": "127.0.0.2", "cores": 3},
    ]
    both.crew.close(3)
    assert both.node.get(5) == messages.Close(code=3)
