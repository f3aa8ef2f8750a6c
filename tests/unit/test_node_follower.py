"""A node that follows, without ranks: its end with node 0's exit code, or without node 0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.job import Job
from benchmarks.launch import preparing
from benchmarks.launch.options import Options
from benchmarks.launch.ranks import processes
from benchmarks.nodes.channel import Channel
from benchmarks.nodes.follower import Follower, Gone
from benchmarks.nodes.messages import Close, Launch, Prepare, Prepared
from benchmarks.nodes.place import Place
from tests.unit.test_node_channel import pair, until
from tests.unit.test_node_crew import job_in

WORKLOAD = workloads.find("mini-cpu")
PREPARE = Prepare(workload=WORKLOAD, options=Options())


@contextmanager
def following(directory: Path) -> Iterator[tuple[Channel, Follower]]:
    """Node 0's end of the connection, and node 1."""
    place = Place(count=2, rank=1, host="127.0.0.1", port=1)
    directory.mkdir()
    with pair() as (head, node):
        yield head, Follower(place=place, channel=node, directory=directory, say=print)


def ended(channel: Channel) -> Callable[[], bool]:
    """Whether node 0's end has arrived."""
    return lambda: not channel._receiver.is_alive()


def launch_of(directory: Path) -> Launch:
    """Node 0 asks for a launch."""
    job = job_in(directory)
    return Launch(number=1, job=job, environment={}, endpoint="127.0.0.1:1", limit_seconds=60.0)


def test_node_0_ends_while_this_node_prepares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with following(tmp_path / "node-1") as (head, follower):

        def end_meanwhile(*_: Any) -> None:
            head.send(Close(code=2))
            head.close()
            until(ended(follower.channel))
            raise OSError("the disk is full")

        monkeypatch.setattr(preparing, "write_tokens", end_meanwhile)
        head.send(PREPARE)
        assert follower.follow() == 2


def test_node_0_ends_while_ranks_are_stopped_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with following(tmp_path / "node-1") as (head, follower):

        def sleeping(job: Job, *_: Any) -> processes.ProcessTree:
            head.send(Close(code=3))
            head.close()
            until(ended(follower.channel))
            return processes.start([sys.executable, "-c", "import time; time.sleep(600)"], {})

        monkeypatch.setattr(Channel, "local_address", "127.0.0.1")
        monkeypatch.setattr(processes, "start_ranks", sleeping)
        head.send(launch_of(tmp_path))
        assert follower.follow() == 3


def test_a_further_point_of_a_study_keeps_what_is_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another limit needs no new files, and another length only new tokens."""
    written: list[str] = []

    def write(*about: Any) -> None:
        path = about[-1]
        written.append(path.name)
        path.write_text(f"{len(written)}")

    monkeypatch.setattr(preparing, "write_tokens", write)
    monkeypatch.setattr(preparing, "write_weights", write)
    points = [
        WORKLOAD,
        WORKLOAD.with_device_memory(None),
        replace(WORKLOAD, sequence_tokens=256),
        replace(WORKLOAD, sequence_tokens=256, seed=2),
    ]
    with following(tmp_path / "node-1") as (head, follower):
        for point in points:
            head.send(Prepare(workload=point, options=Options()))
        head.send(Close(code=0))
        assert follower.follow() == 0
        answers = [head.get(5) for _ in points]
    assert written == ["tokens.npy", "weights.pt", "tokens.npy", "weights.pt"]
    assert answers[0] == answers[1]
    prepared = [answer for answer in answers if isinstance(answer, Prepared)]
    assert len({answer.tokens_sha256 for answer in prepared}) == 2
    weights = [answer.weights_sha256 for answer in prepared]
    assert weights == [weights[0]] * 3 + [weights[3]]
    assert weights[0] != weights[3]


def test_without_a_last_word_node_0_is_gone(tmp_path: Path) -> None:
    with following(tmp_path / "node-1") as (head, follower):
        head.close()
        with pytest.raises(Gone, match=r"node 0 at 127\.0\.0\.1:1 is gone: its command has ended"):
            follower.follow()
