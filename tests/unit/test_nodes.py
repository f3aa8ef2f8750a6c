"""Several nodes, without a launch: places, tokens, equal nodes, files."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.nodes import addresses, facts, files, place, token
from benchmarks.nodes.facts import Facts
from benchmarks.nodes.messages import File
from benchmarks.nodes.place import Place

FACTS = Facts(
    host="gpu01",
    commit="a" * 40,
    code_sha256="c" * 64,
    python="3.11.7",
    versions={"torch": "2.13.0", "nvidia-nccl-cu13": "2.29.1"},
    arguments=["run", "mini-cpu"],
)

STEP = {
    "SLURM_STEP_ID": "3",
    "SLURM_JOB_ID": "70",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NNODES": "4",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
}


def test_a_step_of_srun_gives_the_place() -> None:
    where = place.of_slurm(STEP)
    assert where == Place(count=2, rank=1, host="gpu03", port=21_123, job="70.3.0")


def test_a_step_of_another_job_has_another_port_and_token() -> None:
    one, other = place.of_slurm(STEP), place.of_slurm({**STEP, "SLURM_JOB_ID": "71"})
    assert one is not None
    assert other is not None
    assert one.port != other.port
    assert one.job != other.job


@pytest.mark.parametrize(
    "changes",
    [{"SLURM_STEP_ID": None}, {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}],
    ids=["a batch script", "one node"],
)
def test_elsewhere_slurm_means_nothing(changes: dict[str, str | None]) -> None:
    variables = {name: value for name, value in {**STEP, **changes}.items() if value is not None}
    assert place.of_slurm(variables) is None


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("gpu[03-04,7],login", "gpu03"),
        ("127.0.0.[1-2]", "127.0.0.1"),
        ("a-1,b[1-2]", "a-1"),
        ("c[1-2]-ib", "c1-ib"),
        ("alone", "alone"),
    ],
)
def test_the_first_host_of_a_list(listed: str, first: str) -> None:
    assert place.first_host({"SLURM_JOB_NODELIST": listed}) == first
    assert place.first_host({"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}) == "10.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nodes", "0"], "at least 1"),
        (["--nodes", "3"], "do not divide; give 1 or 2"),
        (["--nodes", "2"], "--node-rank and --endpoint missing"),
        (["--nodes", "2", "--node-rank", "0"], "--endpoint missing"),
        (["--nodes", "2", "--node-rank", "2", "--endpoint", "a:1"], "have the ranks 0 to 1"),
        (["--nodes", "2", "--node-rank", "0", "--endpoint", "a"], "give HOST:PORT"),
        (["--nodes", "2", "--node-rank", "0", "--endpoint", "a:70000"], "from 1 to 65535"),
        (["--node-rank", "0"], "give --nodes too"),
        (["--nodes", "2", "--node-wait", "nan"], "--node-wait nan"),
    ],
)
def test_wrong_flags_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "mini-cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "study",
    [
        ["run", "--tune"],
        ["sweep", "--sequences-per-step", "1"],
        ["longest"],
        ["limit"],
        ["ablation"],
    ],
    ids=lambda study: study[0],
)
def test_studies_have_the_same_flags(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [study[0], "mini-cpu", *study[1:]]
    assert main([*words, "--nodes", "3"]) == 2
    assert main([*words, "--nodes", "2", "--node-rank", "1"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "do not divide; give 1 or 2" in first
    assert "--endpoint missing" in second


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_step_without_counts_names_the_way_out(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert main(["run", "mini-cpu", "--systems", "sppo", *arguments]) == 2
    assert "for one node give --nodes 1" in capsys.readouterr().err
    assert main(["run", "mini-cpu", "--systems", "sppo", "--nodes", "1", "--dry-run"]) == 0


def test_two_tasks_on_one_node_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**STEP, "SLURM_STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "mini-cpu"]) == 2
    error = capsys.readouterr().err
    assert "4 tasks on 2 nodes: start one a node" in error
    assert error.endswith("; for one node give --nodes 1\n")


@pytest.mark.parametrize("value", [None, "short", *token.PUBLIC])
def test_no_token_is_one_line(
    value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(token.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(token.VARIABLE, value)
    where = ["--nodes", "2", "--node-rank", "1", "--endpoint", "127.0.0.1:9"]
    assert main(["run", "mini-cpu", *where]) == 2
    assert "openssl rand -hex 16" in capsys.readouterr().err


def test_under_slurm_a_file_of_the_user_has_the_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(token.VARIABLE, raising=False)
    monkeypatch.setattr(token, "user_folder", lambda: tmp_path)
    head = Place(count=2, rank=0, host="a", port=1, job="70.3.0")
    with token.run_token(head, 1) as written:
        (path,) = (tmp_path / "tokens").iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with token.run_token(replace(head, rank=1), 1) as read:
            assert read == written
    assert not path.exists()
    with pytest.raises(ValueError, match="no token of node 0"):
        token.run_token(replace(head, rank=1), 0.3).__enter__()


def test_equal_nodes_have_no_difference() -> None:
    other = msgspec.structs.replace(FACTS, host="gpu02", commit=None)
    assert facts.difference(FACTS, other) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code_sha256": "d" * 64}, "its code is not that of node 0 (commit aaaaaaaaa, digest ddd"),
        ({"python": "3.11.9"}, "it has Python 3.11.9, node 0 has 3.11.7"),
        ({"versions": {"torch": "2.12.0"}}, "it has torch 2.12.0, node 0 has 2.13.0"),
        ({"versions": {"torch": "2.13.0"}}, "it has nvidia-nccl-cu13 none, node 0 has 2.29.1"),
        ({"arguments": ["run", "tiny-cpu"]}, "it was started for `run tiny-cpu`, node 0 for `run"),
        ({"arguments": ["limit", "mini-cpu"]}, "it was started for `limit mini-cpu`, node 0 for"),
    ],
)
def test_a_difference_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in facts.difference(FACTS, msgspec.structs.replace(FACTS, **changes))


def test_the_digest_of_code_sees_every_module(tmp_path: Path) -> None:
    module = tmp_path / "sppo" / "room" / "a.py"
    module.parent.mkdir(parents=True)
    module.write_text("a = 1\n")
    before = facts.code_digest(tmp_path)
    assert facts.code_digest(tmp_path) == before
    module.write_text("a = 2\n")
    assert facts.code_digest(tmp_path) != before
    module.rename(module.with_name("b.py"))
    assert facts.code_digest(tmp_path) != before


def file(name: str, **changes: Any) -> File:
    return File(number=1, name=name, content=b"content", **changes)


@pytest.mark.parametrize("name", ["rank-2.json", "error-3.json", "timeline-2.json", "where-3"])
def test_a_node_sends_files_of_its_ranks(name: str, tmp_path: Path) -> None:
    files.take(file(name), tmp_path, 1, 2)
    assert (tmp_path / name).read_bytes() == b"content"


@pytest.mark.parametrize(
    "name",
    ["rank-1.json", "where-4", "../rank-2.json", "/etc/rank-2.json", "job.json", "rank-٢.json", ""],
)
def test_any_other_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(files.WrongFile, match="none of its own"):
        files.take(file(name), tmp_path, 1, 2)
    assert not list(tmp_path.iterdir())


def test_a_log_has_the_name_of_its_node(tmp_path: Path) -> None:
    files.take(file("log.txt", whole=False), tmp_path, 3, 2)
    assert (tmp_path / "log-node-3.txt").read_text().endswith("...\ncontent")


def test_only_files_of_a_launch_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LOG", 4)
    for name in ("rank-2.json", "ends.jsonl", "log.txt", "job.json", "weights.pt", "where-2"):
        (tmp_path / name).write_text("0123456789")
    sent = {sent.name: sent for sent in files.result_files(tmp_path, 1)}
    assert sorted(sent) == ["ends.jsonl", "log.txt", "rank-2.json", "where-2"]
    assert (sent["log.txt"].content, sent["log.txt"].whole) == (b"6789", False)
    assert [note.name for note in files.note_files(tmp_path, 1)] == ["where-2"]


def test_loopback_is_only_for_who_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "resolved", lambda host: "127.0.1.1")
    with pytest.raises(ValueError, match="is the loopback address"):
        addresses.listen(Place(count=2, rank=0, host="gpu01", port=29_400))


def test_a_taken_or_foreign_endpoint_is_one_line() -> None:
    port = addresses.free_port("127.0.0.1")
    where = Place(count=2, rank=0, host="127.0.0.1", port=port)
    with addresses.listen(where), pytest.raises(ValueError, match=f"port {port} is taken"):
        addresses.listen(where)
    with pytest.raises(ValueError, match="does not have this address"):
        addresses.listen(Place(count=2, rank=0, host="192.0.2.1", port=port))


def test_gloo_gets_the_interface_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(addresses.GLOO_INTERFACE, raising=False)
    name = addresses.interface("127.0.0.1")
    assert addresses.network_variables("127.0.0.2") == {addresses.GLOO_INTERFACE: name}
    assert addresses.network_variables("192.0.2.1") == {}
    monkeypatch.setenv(addresses.GLOO_INTERFACE, "ib0")
    assert addresses.network_variables("127.0.0.2") == {}
