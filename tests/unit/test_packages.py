"""The list of installed packages, its file beside records, and the pins made from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.cli import main
from benchmarks.commands import package_list
from benchmarks.environment import CHECKOUT, describe_environment
from benchmarks.machine import packages
from benchmarks.machine.packages import Origin, Package, PackageList, installed_packages
from benchmarks.machine.pins import HEADER, pins
from benchmarks.records import record as records
from benchmarks.records.store import RecordError
from tests.unit.records_factory import record
from tests.unit.scripted_launches import scripted

ORIGINS: list[tuple[Any, str]] = [
    (None, "one==1.0"),
    (
        {"url": "https://me:s3cret@host/a.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
        "one @ git+https://host/a.git@ab12",
    ),
    (
        {"url": "https://host/a.git", "vcs_info": {"vcs": "git", "commit_id": "ab 12"}},
        "# One==1.0: git https://host/a.git commit ab 12",
    ),
    (
        {"url": "https://host/a.whl?sig=s3cret", "archive_info": {"hashes": {"sha256": "c3"}}},
        "one @ https://host/a.whl#sha256=c3",
    ),
    ({"url": "https://h/$A.whl", "archive_info": {}}, "# One==1.0: an archive https://h/$A.whl"),
    (
        {"url": "file:///a.whl", "archive_info": {}},
        "# One==1.0: an archive file:///a.whl\none==1.0",
    ),
    (
        {"url": "file:///home/me/a\n--index-url=x", "dir_info": {"editable": True}},
        "# One==1.0: editable file:///home/me/a--index-url=x",
    ),
    ({"url": "file:///a", "dir_info": {}}, "# One==1.0: a local folder file:///a"),
    ({"url": 3}, "# One==1.0: its direct_url.json cannot be read"),
    ("{", "# One==1.0: its direct_url.json cannot be read"),
]


def has_pip() -> bool:
    """Without a search for the module: that turns setuptools' own distutils off, for good."""
    try:
        version("pip")
    except PackageNotFoundError:
        return False
    return True


def install(folder: Path, metadata: bytes | None, direct_url: Any = None, name: str = "a") -> None:
    """A distribution's folder. direct_url: JSON values, or text."""
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    if metadata is not None:
        (place / "METADATA").write_bytes(metadata)
    if direct_url is not None:
        text = direct_url if isinstance(direct_url, str) else json.dumps(direct_url)
        (place / "direct_url.json").write_text(text)


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PackageList:
    monkeypatch.setattr(sys, "path", [str(folder)])
    return installed_packages()


@pytest.mark.parametrize(("direct_url", "lines"), ORIGINS)
def test_a_pin_is_what_others_can_install(
    direct_url: Any, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, b"Name: One\nVersion: 1.0\n", direct_url)
    assert pins(in_folder(tmp_path, monkeypatch))[len(HEADER) :] == lines.splitlines()


def test_a_package_of_conda_is_that_of_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct_url = {"url": "file:///home/conda/feedstock_root/work", "dir_info": {}}
    install(tmp_path, b"Name: one\nVersion: 1.0\n", direct_url)
    (tmp_path / "a-1.0.dist-info" / "INSTALLER").write_text("conda\n")
    assert pins(in_folder(tmp_path, monkeypatch))[-1] == "one==1.0"


HOSTILE = [
    None,
    b"",
    b"Version: 1.0\n",
    b"Name: \xff\xfe\nVersion: 1.0\n",
    b"Name: a\n --index-url=https://evil\nVersion: 1.0\n",
    b"Name: b\nVersion: 1.0\n --hash=x\n",
    b"Name: a # b\nVersion: 1\n",
    b"Name: -r /etc/passwd\nVersion: 1.0\n",
    b"Name: caf\xc3\xa9\x1b[2J\xe2\x80\xa8x==1\nVersion: 1.0\n",
    b"Name: ${HOME}\nVersion: 1.0\n",
    b"Name: c\nVersion: not a version\n",
    b"Name: pip\nVersion: 23.2.1\n",
    b"Name: sppo_suite\nVersion: 0.1.0\n",
    b"Name: torch\nVersion: 2.9.0a0+50eac811a6.nv25.09\n",
]


def test_no_hostile_package_makes_a_wrong_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without metadata, not UTF-8, with lines, options, variables and control characters."""
    for number, metadata in enumerate(HOSTILE):
        install(tmp_path, metadata, name=f"h{number}")
    (tmp_path / "folder-1.0.dist-info" / "METADATA").mkdir(parents=True)
    listed = in_folder(tmp_path, monkeypatch)
    assert {"h0-1.0.dist-info", "h1-1.0.dist-info", "folder-1.0.dist-info"} <= {*listed.unreadable}
    lines = pins(listed, notes=["a\nnote"])
    assert [line for line in lines if line[:1] != "#"] == ["torch==2.9.0a0+50eac811a6.nv25.09"]
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert "\n".join(lines).splitlines() == lines
    assert len(lines) == len(HEADER) + 1 + 2 + len(HOSTILE) + 1


def test_the_first_of_two_packages_with_a_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "first", b"Name: A_b\nVersion: 1\n")
    install(tmp_path / "second", b"Name: a-B\nVersion: 2\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert [package.version for package in installed_packages().packages] == ["1"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["env", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_pin_is_the_installed_version(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--constraints")
    requirements = [Requirement(line) for line in lines if line[:1] != "#"]
    pinned = {requirement.name: requirement for requirement in requirements}
    assert list(pinned) == sorted(pinned)
    for package in installed_packages().packages:
        known = pinned.get(packages.canonicalize_name(package.name))
        if known is not None and known.url is None:
            assert known.specifier.contains(Version(package.version), prereleases=True)
    assert {"torch", "msgspec", "megatron-core", "deepspeed"} <= set(pinned)
    assert not {"sppo-suite", "pip"} & set(pinned)


@pytest.mark.skipif(not has_pip(), reason="no pip")
@pytest.mark.parametrize("other", ["", "0.0.1"])
def test_pip_takes_the_pins(other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an installed package, which meets its pin, and not a pin of another version."""
    lines = printed(capsys, "--constraints")
    lines.append("never-asked-for @ git+https://host.invalid/a.git@ab12#subdirectory=b")
    if other:
        lines = [line for line in lines if not line.startswith("packaging==")]
        lines.append(f"packaging=={other}")
    path = tmp_path / "pins.txt"
    path.write_text("\n".join(lines))
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--no-index",
            "-c",
            path,
            "packaging",
        ],
        env={name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ended.returncode == 0) == (other == ""), ended.stderr
    assert "Invalid" not in ended.stderr


@pytest.mark.parametrize("flag", ["--constraints", "--json"])
def test_the_locale_and_odd_packages_end_no_command(flag: str, tmp_path: Path) -> None:
    for number, metadata in enumerate(HOSTILE):
        install(tmp_path, metadata, {"url": "file:///caf\xe9", "dir_info": {}}, name=f"h{number}")
    place = {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(tmp_path)])}
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONIOENCODING"}
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "env", flag],
        env={**variables, **place, **locale},
        capture_output=True,
        timeout=100,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.isascii()
    assert b"caf" in ended.stdout


RUN = ("run", "mini-cpu", "--systems", "sppo", "--launches", "1", "--no-wandb", "--output")


def test_a_run_has_its_list_once_and_gives_its_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after a resume with another package, which adds a second list."""
    with scripted(tmp_path):
        assert main([*RUN, str(tmp_path / "runs")]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (path,) = folder.glob(package_list.PATTERN)
    capsys.readouterr()
    here = [line for line in printed(capsys, "--constraints") if line[:1] != "#"]
    for source in (folder, folder / "sppo-1" / "record.json", folder / "run.json", path):
        lines = printed(capsys, "--constraints", "--record", str(source))
        assert [line for line in lines if line[:1] != "#"] == here
    install(tmp_path / "more", b"Name: another\nVersion: 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "more")])
    (folder / "sppo-1" / "record.json").unlink()
    with scripted(tmp_path):
        assert main(["run", *RUN[1:-1], "--resume", str(folder)]) == 0
    assert len(list(folder.glob(package_list.PATTERN))) == 2
    with pytest.raises(RecordError, match="2 lists of packages; name one of"):
        package_list.recorded_machine(folder)
    machine = package_list.recorded_machine(folder / "sppo-1" / "record.json")
    assert "another" in [package.name for package in machine.packages.packages]


def test_a_record_from_before_the_list_gives_its_main_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"python": "3.11.7", "versions": {"torch": "2.13.0", "b\nad": "x"}}
    path = tmp_path / "sppo-1" / "record.json"
    records.write(record(environment=environment), path)
    lines = printed(capsys, "--constraints", "--record", str(tmp_path))
    assert lines[-2:] == [r"# b\x0aad==x: pip knows no such name or version", "torch==2.13.0"]
    assert any("these are the main ones" in line for line in lines)
    values = json.loads("\n".join(printed(capsys, "--record", str(path), "--json")))
    assert values == environment


def test_the_output_of_env_gives_pins_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "env.json"
    path.write_text("\n".join(printed(capsys, "--json")))
    machine = package_list.recorded_machine(path)
    assert (machine.packages, machine.is_complete) == (installed_packages(), True)


SHA256 = PackageList(python="3.11.7", packages=[]).sha256


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no JSON of ours"),
        ("\udcff", "no JSON of ours"),
        ('{"environment": {"os": "\udcff"}}', "no JSON of ours"),
        ("{}", "no environment in it"),
        ('{"environment": []}', "no environment in it"),
        (json.dumps({"environment": {"packages": {"sha256": SHA256}}}), "its digest is another"),
    ],
)
def test_a_file_without_a_machine_is_one_line(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, errors="surrogateescape")
    changed = PackageList(python="3.12.0", packages=[])
    package_list.save(tmp_path / f"packages-{SHA256[:12]}.json", changed)
    assert main(["env", "--record", str(path)]) == 2
    assert words in capsys.readouterr().err
    assert main(["env", "--record", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_this_suite_is_no_pin_wherever_it_comes_from() -> None:
    origin = Origin(kind="vcs", url="https://host/s.git", vcs="git", commit="ab12")
    listed = PackageList(
        python="3.11.7", packages=[Package(name="sppo-suite", version="1.0", origin=origin)]
    )
    own = [line for line in pins(listed, []) if "sppo-suite" in line]
    assert own == ["# sppo-suite==1.0: this suite, git https://host/s.git commit ab12"]


def test_a_digest_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "packages-..json").write_text("{}")
    environment = {"packages": {"sha256": "../../etc/passwd", "count": 1}, "versions": [1]}
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"environment": environment}))
    machine = package_list.recorded_machine(path)
    assert (machine.is_complete, machine.packages.packages) == (False, [])


def test_hostile_values_of_a_record_are_printed_in_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"environment": {"a\n": [{"b\x1b": ["c\n", None, {}]}], "d": []}}))
    lines = printed(capsys, "--record", str(path))
    assert lines == [r"a\x0a:        b\x1b c\x0a; unknown; none", "d:            none"]
    path.write_text(json.dumps({"environment": {"commit": 5}}))
    assert "no commit known" in "".join(printed(capsys, "--constraints", "--record", str(path)))


def test_the_list_is_described_by_number_and_digest() -> None:
    listed = installed_packages()
    described = describe_environment()["packages"]
    assert described == {"count": len(listed.packages), "sha256": listed.sha256}
    changed = [*listed.packages, Package(name="z", version="1", origin=Origin(kind="vcs"))]
    assert PackageList(python=listed.python, packages=changed).sha256 != listed.sha256
