"""Studies over two nodes with scripted ranks: node 0 leads, node 1 follows, also after a kill."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from benchmarks.cli import main, parse
from benchmarks.commands import several_nodes
from benchmarks.commands.flags import SeveralNodes
from benchmarks.launch import run_file
from benchmarks.nodes import token
from benchmarks.nodes.channel import Channel
from benchmarks.nodes.follower import Follower, Gone
from benchmarks.nodes.head import Node
from benchmarks.nodes.messages import Hello, Launch
from benchmarks.nodes.place import Place
from benchmarks.records import record as records
from benchmarks.records import store
from tests.unit.scripted_launches import launches, scripted
from tests.unit.test_node_channel import pair
from tests.unit.test_nodes import FACTS
from tests.unit.test_resume import COMMANDS

SWEEP = [
    *("sweep", "mini-cpu", "--no-wandb", "--launches", "1", "--systems", "sppo"),
    *("--sequences-per-step", "1,2"),
]
LONGEST = [
    *("longest", "mini-cpu", "--no-wandb", "--systems", "megatron-same-layout"),
    *("--at-most", "1K", "--device-memory", "150MiB"),
]
STUDIES = [SWEEP, LONGEST, *(each for each in COMMANDS if each[0] not in ("sweep", "longest"))]
PLACE = ["--nodes", "2", "--node-rank", "0", "--endpoint", "127.0.0.1:9"]


class ScriptedFollower(Follower):
    """A following node without ranks. It notes each launch, and may be killed in one."""

    launched: list[Launch]
    dies_at: int | None = None

    def _run(self, message: Launch, directory: Path) -> int | None:
        tokens = np.load(self.directory / "tokens.npy")
        assert tokens.shape[1] == message.job.workload.sequence_tokens, "those of this launch"
        assert (self.directory / "weights.pt").stat().st_size
        self.launched.append(message)
        if len(self.launched) == self.dies_at:
            self.channel.close()
        return 0


@contextmanager
def second_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int | None = None
) -> Iterator[tuple[ScriptedFollower, list[int]]]:
    """Node 1, in a thread and a new folder, and its exit code. dies_at: the launch of its kill."""
    monkeypatch.setenv(token.VARIABLE, "0123456789abcdef")
    codes: list[int] = []
    with pair() as (head, channel):
        place = Place(count=2, rank=1, host="127.0.0.1", port=9)
        own = Path(mkdtemp(dir=folder))
        follower = ScriptedFollower(place=place, channel=channel, directory=own, say=str)
        follower.launched, follower.dies_at = [], dies_at
        thread = threading.Thread(target=lambda: codes.append(_follow(follower)))
        thread.start()
        monkeypatch.setattr(several_nodes, "gather", lambda *_: [_node(head)])
        try:
            yield follower, codes
        finally:
            thread.join(60)


def _node(channel: Channel) -> Node:
    hello = Hello(rank=1, nodes=2, facts=FACTS, environment={})
    return Node(hello=hello, channel=channel, address="127.0.0.2")


def _follow(follower: Follower) -> int:
    try:
        return follower.follow()
    except Gone:
        return -9


def only_folder(parent: Path) -> Path:
    (folder,) = parent.glob("*-mini-cpu-2-nodes")
    return folder


def over_both(
    arguments: Sequence[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies_at: int | None = None,
) -> tuple[int, list[int], list[Launch]]:
    """The exit codes of node 0 and node 1, and the launches of node 1."""
    with second_node(folder, monkeypatch, dies_at) as (follower, codes):
        with scripted(folder):
            code = main([*arguments, *PLACE])
        follower.channel.close()
    return code, codes, follower.launched


@pytest.mark.parametrize("study", STUDIES, ids=[study[0] for study in STUDIES])
def test_node_1_follows_a_whole_study(
    study: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "runs"
    code, codes, launched = over_both([*study, "--output", str(output)], tmp_path, monkeypatch)
    assert (code, codes) == (0, [0])
    folder = only_folder(output)
    done = [records.read(path) for path in folder.rglob(records.FILE_NAME)]
    both = [record for record in done if record.ranks == 2]
    assert len(launched) == len(both) > 1
    assert {record.workload.cluster.nodes for record in both} == {2}
    assert {len(record.environment["nodes"]) for record in both} == {2}
    assert run_file.read(folder).finished
    assert not list(folder.rglob("weights.pt"))


@pytest.mark.parametrize("dies_at", [1, 2])
@pytest.mark.parametrize("study", [SWEEP, LONGEST], ids=["sweep", "longest"])
def test_a_study_goes_on_after_a_kill_of_node_1(
    study: list[str],
    dies_at: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "runs"
    stopped = [*study, "--output", str(output)]
    code, _, launched = over_both(stopped, tmp_path, monkeypatch, dies_at)
    assert (code, len(launched)) == (1, dies_at)
    error = capsys.readouterr().err
    folder = only_folder(output)
    assert "error: node 1 (gpu01, 127.0.0.2) is gone" in error
    assert f"go on with: sppo-bench {study[0]} mini-cpu" in error
    recorded = {path.parent for path in folder.rglob(records.FILE_NAME)}
    begun = launches(tmp_path)
    code, codes, _ = over_both([*study, "--resume", str(folder)], tmp_path, monkeypatch)
    assert (code, codes) == (0, [0])
    afterwards = launches(tmp_path)[len(begun) :]
    assert max(Counter(afterwards).values()) == 1
    names = {f"{path.parent.name}/{path.name}" for path in recorded}
    assert not names & set(afterwards), "nothing measured is measured again"
    assert begun[-1] in afterwards, "the launch without a record is"
    code, codes, launched = over_both([*study, "--resume", str(folder)], tmp_path, monkeypatch)
    assert (code, codes, launched) == (0, [0], []), "a finished study asks nothing of node 1"


def test_another_text_on_node_1_is_refused_before_a_resumed_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    over_both([*SWEEP, "--output", str(output)], tmp_path, monkeypatch, 1)
    begun = launches(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(ScriptedFollower, "_written", lambda *_: "another digest")
    again = [*SWEEP, "--resume", str(only_folder(output))]
    code, codes, _ = over_both(again, tmp_path, monkeypatch)
    assert (code, codes) == (2, [2])
    assert "its tokens are not those of node 0" in capsys.readouterr().err
    assert launches(tmp_path) == begun


def test_a_full_disk_on_node_1_keeps_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second value of a sweep needs new tokens, for which node 1 has no room."""
    written = ScriptedFollower._written

    def full(self: Follower, name: str, *about: Any) -> str:
        if self.written.get(name):
            raise OSError(28, "No space left on device", name)
        return written(self, name, *about)

    monkeypatch.setattr(ScriptedFollower, "_written", full)
    output = tmp_path / "runs"
    code, codes, _ = over_both([*SWEEP, "--output", str(output)], tmp_path, monkeypatch)
    assert (code, codes) == (1, [1])
    error = capsys.readouterr().err
    assert "error: node 1 (gpu01, 127.0.0.2): tokens.npy: No space left on device" in error
    assert f"records so far: {only_folder(output)}" in error


@pytest.mark.parametrize("flags", [[], ["--resume", "runs/stopped"]], ids=["new", "resumed"])
def test_a_following_node_needs_no_folder_to_go_on(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "results_directory", lambda: tmp_path / "results")
    command = parse(["sweep", "mini-cpu", *flags])
    assert isinstance(command, SeveralNodes)
    expected = "runs" if flags else "results/runs"
    assert several_nodes.own_parent(command) == tmp_path / expected
