"""The own folder of a node: removed at the end, rid of what killed commands left, and refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.launch.resuming import locked
from benchmarks.nodes import own_folder as folders
from benchmarks.nodes import token
from benchmarks.nodes.head import gather
from benchmarks.nodes.own_folder import own_folder
from benchmarks.nodes.place import Place
from tests.unit.test_node_channel import free_port
from tests.unit.test_nodes import FACTS


def left_behind(parent: Path, name: str, host: str) -> Path:
    """A folder as a killed command leaves it."""
    directory = parent / name
    (directory / "launch-1").mkdir(parents=True)
    (directory / folders.HOST).write_text(host)
    (directory / "weights.pt").write_bytes(b"weights")
    return directory


def test_the_folder_and_its_inputs_end_with_the_node(tmp_path: Path) -> None:
    with own_folder(tmp_path, 1) as directory:
        (directory / "weights.pt").write_bytes(b"weights")
    assert not list(tmp_path.iterdir())


def test_logs_of_a_node_stay(tmp_path: Path) -> None:
    with own_folder(tmp_path, 1) as directory:
        (directory / "launch-1").mkdir()
    assert [path.name for path in directory.iterdir()] == ["launch-1"]


@pytest.mark.parametrize(
    ("name", "host", "is_used", "stays"),
    [
        ("20260101-000000-node-1", "gpu01", False, False),
        ("20260101-000000-node-12-2", "gpu01", False, False),
        ("20260101-000000-node-1", "gpu01", True, True),
        ("20260101-000000-node-1", "gpu02", False, True),
        ("my-node-1", "gpu01", False, True),
    ],
    ids=["killed", "killed, another rank", "in use", "of another host", "another name"],
)
def test_inputs_of_a_killed_command_are_removed(
    name: str,
    host: str,
    is_used: bool,
    stays: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gpu01")
    directory = left_behind(tmp_path, name, host)
    if is_used:
        with locked(directory), own_folder(tmp_path, 1):
            pass
    else:
        with own_folder(tmp_path, 1):
            pass
    assert (directory / "weights.pt").exists() == stays
    assert (directory / "launch-1").exists()


def test_a_node_without_a_folder_is_named_by_node_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    port = free_port("127.0.0.1")
    place = Place(count=2, rank=0, host="127.0.0.1", port=port)
    secret = "0123456789abcdef"
    errors: list[str] = []

    def head() -> None:
        try:
            gather(place, secret, FACTS, 60.0, lambda line: None)
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=head)
    thread.start()
    monkeypatch.setenv(token.VARIABLE, secret)
    flags = ["--nodes", "2", "--node-rank", "1", "--endpoint", f"127.0.0.1:{port}"]
    assert main(["run", "mini-cpu", "--output", str(tmp_path / "file" / "results"), *flags]) == 2
    thread.join(60)
    (error,) = errors
    assert error.startswith("node 1 (")
    assert "Not a directory" in error
    assert f"nothing starts: {error}" in capsys.readouterr().err
