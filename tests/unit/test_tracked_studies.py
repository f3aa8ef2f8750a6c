"""Studies and the paper's pages in wandb: live, after a stop, and from old folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Role
from benchmarks import workloads
from benchmarks.cli import main
from benchmarks.commands.planning import emulate_search
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import EmulationJob, RoleReport, failed
from benchmarks.job import RankReport
from benchmarks.launch import run_file
from benchmarks.records import record as records
from benchmarks.records import store
from benchmarks.tracking import pages, sent
from benchmarks.tracking.session import Session
from benchmarks.tracking.tracked_run import Heading, TrackedRun
from tests.unit import scripted_launches
from tests.unit.fake_wandb import FakeRun, fake_wandb, read_runs
from tests.unit.records_factory import MIB, record
from tests.unit.scripted_launches import scripted
from tests.unit.test_resume import COMMANDS, only_folder

SWEEP = [word for word in COMMANDS[0] if word != "--no-wandb"]


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def logged(folder: Path) -> dict[str, list[str]]:
    """Names of the logged results by run."""
    values = json.loads((folder / "wandb" / sent.NAME).read_bytes())
    assert all(run["closed"] for run in values["runs"].values())
    return {run: list(values["runs"][run]["results"]) for run in values["runs"]}


def test_a_stopped_sweep_goes_on_in_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """wandb's own reader finds every value once, in the two files of one run."""
    seen: list[str] = []

    def interrupt(name: str) -> None:
        seen.append(name)
        if seen.count("launch") == 3:  # the reference of the second value
            raise KeyboardInterrupt

    with scripted(tmp_path, interrupt):
        assert main([*SWEEP, "--output", str(tmp_path)]) == 130
    folder = only_folder(tmp_path)
    assert main(["track", str(folder)]) == 1
    assert "the study is not at its end; go on with: sppo-bench sweep" in capsys.readouterr().out
    with scripted(tmp_path):
        assert main([*SWEEP, "--resume", str(folder)]) == 0
        assert main([*SWEEP, "--resume", str(folder)]) == 0, "finished: opens no run"
    before, after = read_runs(folder)
    assert before.run_id == after.run_id
    assert (before.exit_code, after.exit_code) == (130, 0)
    values = [step.get("result/value") for step in before.steps + after.steps]
    assert values == ["150.0 MiB", "no limit", None]
    assert [step["_step"] for step in before.steps + after.steps] == [0, 1, 2]
    seconds = [step["measured/step_seconds/sppo"] for step in (*before.steps, after.steps[0])]
    assert seconds == [pytest.approx(0.3), pytest.approx(0.3)]
    assert after.config["workload"]["name"] == "mini-cpu"
    assert after.config["environment"]["commit"] == "a" * 40
    assert "measured" in after.tags
    assert after.summary["values"] == 2
    (table,) = folder.rglob("*.table.json")
    cells = json.loads(table.read_bytes())
    assert [row[cells["columns"].index("label")] for row in cells["data"]] == ["measured"] * 2
    capsys.readouterr()
    assert main(["track", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("logged before: sweep")
    assert len(list(folder.rglob("offline-run-*"))) == 2


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_a_study_is_one_run_live_and_from_its_folder(command: list[str], tmp_path: Path) -> None:
    arguments = [word for word in command if word != "--no-wandb"]
    with fake_wandb() as live, scripted(tmp_path):
        assert main([*arguments, "--output", str(tmp_path)]) == 0
    folder = only_folder(tmp_path)
    (run,) = live
    first = logged(folder)
    check_labels(run)
    assert run.exit_code == 0
    assert run.arguments["resume"] == "allow"
    assert len(run.steps) >= 2, "a result and the table"
    shutil.rmtree(folder / "wandb")
    moved = folder.rename(tmp_path / "elsewhere")
    with fake_wandb() as old:
        assert main(["track", str(moved)]) == 0
        assert main(["track", str(moved)]) == 0
    (again,) = old
    assert logged(moved).keys() == first.keys(), "the id is that of the content"
    assert {name for names in logged(moved).values() for name in names} == {
        name for names in first.values() for name in names
    }
    assert again.summary == run.summary
    assert run.summary


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4], ids=[command[0] for command in COMMANDS])
def test_a_launch_that_is_measured_again_is_logged(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/resume.md: without its record.json a launch of a finished folder is measured again."""
    command = [word for word in COMMANDS[number] if word != "--no-wandb"]
    with fake_wandb() as runs, scripted(tmp_path):
        assert main([*command, "--output", str(tmp_path)]) == 0
        folder = only_folder(tmp_path)
        assert main([*command, "--resume", str(folder)]) == 0
    (first,) = runs
    for path in folder.rglob(records.FILE_NAME):
        path.unlink()
    reports = scripted_launches.reports
    monkeypatch.setattr(scripted_launches, "reports", lambda job: changed(reports(job)))
    with fake_wandb(starting_step=len(first.steps)) as runs, scripted(tmp_path):
        assert main([*command, "--resume", str(folder)]) == 0
        assert main(["track", str(folder)]) == 0
    (second,) = runs
    assert second.arguments["id"] == first.arguments["id"]
    assert len(second.steps) >= 2, "a result and the table"
    tables = [values for values in second.steps.values() if "table" in values]
    if command[0] != "limit":  # its table and its answer hold no times
        assert len(tables) == 1
    if command[0] in ("run", "ablation"):
        name = next(name for name in second.summary if "best_step_seconds" in name)
        assert second.summary[name] == pytest.approx(2 * first.summary[name])


def changed(reports: list[RankReport]) -> list[RankReport]:
    """Launches that take twice as long, and 1 MiB more."""
    return [
        msgspec.structs.replace(
            report,
            steps=[msgspec.structs.replace(s, seconds=2 * s.seconds) for s in report.steps],
            memory=msgspec.structs.replace(
                report.memory, tracked_peak_bytes=report.memory.tracked_peak_bytes + MIB
            ),
        )
        for report in reports
    ]


def test_a_run_whose_records_change_is_logged_anew(
    tmp_path: Path,
) -> None:
    """A launch without its record in a finished `run`: a new wandb run; the others stay."""
    arguments = ["run", "mini-cpu", "--measured-steps", "2", "--systems", "sppo"]
    with fake_wandb() as runs, scripted(tmp_path):
        assert main([*arguments, "--output", str(tmp_path)]) == 0
    folder = only_folder(tmp_path)
    before = {run.arguments["id"] for run in runs}
    (path, *_) = folder.rglob(records.FILE_NAME)
    path.unlink()
    with fake_wandb() as runs, scripted(tmp_path):
        assert main([*arguments, "--resume", str(folder)]) == 0
        assert main([*arguments, "--resume", str(folder)]) == 0
    (run,) = runs
    assert run.arguments["id"] not in before


def check_labels(run: FakeRun) -> None:
    """Numbers that were measured have that word in their names, and rows of tables a label."""
    for values in run.steps.values():
        for name, value in values.items():
            if name == "table":
                assert "label" in value["columns"]
                continue
            prefix = name.partition("/")[0]
            assert prefix in ("result", "measured"), name
            assert prefix == "measured" or "seconds" not in name, name


def test_an_error_of_wandb_ends_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "Offline")
    with scripted(tmp_path):
        assert main([*SWEEP, "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("wandb: ")]) == 1
    assert len(list(only_folder(tmp_path).rglob(records.FILE_NAME))) == 4


def test_no_wandb_and_disabled_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_wandb() as runs, scripted(tmp_path):
        assert main([*SWEEP, "--no-wandb", "--output", str(tmp_path)]) == 0
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert main([*SWEEP, "--output", str(tmp_path / "disabled")]) == 0
    assert runs == []
    assert not list(tmp_path.rglob("wandb"))


def test_an_emulated_search_logs_its_trials_while_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps_before: list[int] = []
    workload = workloads.find("gpt-7b-1m-32xa100")

    def run_roles(self: Emulator, job: EmulationJob, roles: Sequence[Role]) -> list[RoleReport]:
        store.save(Path(job.output_directory) / "job.json", job)
        self.progress.note("a role")
        steps_before.append(len(runs[0].steps) if runs else 0)
        status: Any = "ok" if job.workload.sequence_tokens <= 1_500_000 else "oom"
        return [
            RoleReport(role=role.name, rank=role.rank, ranks=role.ranks, status=status)
            for role in roles
        ]

    monkeypatch.setattr(Emulator, "run", run_roles)
    settings = MegatronSettings(tensor_parallel=8, pipeline_parallel=4, recompute="full")
    heading = Heading(run_id="a", name="b", job_type="c", tags=())
    with fake_wandb() as runs, Session() as session:
        code = emulate_search.search(
            workload,
            "megatron",
            settings,
            Emulator(parent=tmp_path, time_limit_seconds=1.0).for_search(tmp_path),
            TrackedRun(session, heading, tmp_path),
            longest_up_to=2 * workload.sequence_tokens,
            budget_seconds=None,
            as_json=True,
        )
    result = json.loads(capsys.readouterr().out)
    (run,) = runs
    assert code == run.exit_code
    assert steps_before == list(range(len(steps_before))), "a trial is there before the next"
    *trials, table = run.steps.values()
    assert [values["result/tokens"] for values in trials] == [
        trial["tokens"] for trial in result["trials"]
    ]
    assert "simulated" in table["table"]["data"][0][-1]
    assert run.summary["emulated/longest_tokens"] == result["longest_tokens"]
    run_file_of_search(tmp_path, workload)
    with fake_wandb() as old:
        assert main(["track", str(tmp_path)]) == 0
    assert len(old[0].steps) == len(run.steps)


def run_file_of_search(folder: Path, workload: Any) -> None:
    plan = run_file.RunFile(
        command="emulate", arguments=[], workload=workload, environment={}, finished=True
    )
    run_file.write(folder, plan)


def test_the_paper_s_emulated_points_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_roles(_: Emulator, job: EmulationJob, roles: Sequence[Role]) -> list[RoleReport]:
        store.save(Path(job.output_directory) / "job.json", job)
        return [failed(role, "oom", "no memory") for role in roles]

    monkeypatch.setattr(Emulator, "run", run_roles)
    flags = "--models gpt-7b --systems deepspeed --figures 10 --readings paper"
    with fake_wandb() as runs:
        assert main(["paper", *flags.split(), "--output", str(tmp_path)]) == 0
        (folder,) = tmp_path.iterdir()
        assert main(["track", str(folder)]) == 0
    (run,) = runs
    *rows, table = run.steps.values()
    saved = json.loads((folder / "fig10.json").read_bytes())["verdicts"]
    assert [values["result/tokens"] for values in rows] == [verdict["seq"] for verdict in saved]
    assert len(table["fig10"]["data"]) == len(saved) > 1
    assert "label" in table["fig10"]["columns"]
    assert run.summary["fig10/agreement"] == "the paper is silent on these rows"


def test_the_paper_s_pages_are_logged_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["paper", "--figures", "9", "--tables", "2", "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert main(arguments) == 0, "the same items of the same commit"
    (run,) = read_runs(tmp_path)
    assert len(run.steps) == 2
    tables = [json.loads(path.read_bytes()) for path in tmp_path.rglob("*.table.json")]
    assert len(tables) == 2
    for table in tables:
        label, value = (table["columns"].index(name) for name in ("label", "value"))
        assert {row[label] for row in table["data"]} <= {"computed", "paper"}
        assert isinstance(table["data"][0][value], float)
    assert len(list(tmp_path.rglob("media/images/*/*.png"))) == 2
    assert run.summary["fig9/agreement"]
    capsys.readouterr()
    assert main(["track", str(tmp_path), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["kind"], entry["runs"], entry["new_runs"]) == ("paper", [run.run_id], 0)


def test_pages_of_two_folders_share_a_run_only_with_the_same_items(tmp_path: Path) -> None:
    """Each folder has its own count of steps, so a shared run would lose steps."""
    clean = {"commit": "a" * 40, "dirty": False}
    here, there = tmp_path / "here", tmp_path / "there"

    def run_id(environment: dict[str, Any], keys: list[str], folder: Path) -> str:
        return pages.heading(environment, keys, folder).run_id

    first = run_id(clean, ["fig9", "table2"], here)
    assert run_id(clean, ["table2", "fig9"], there) == first
    changed_files, unknown = {**clean, "dirty": True}, {"versions": {"torch": "2"}}
    others = [
        run_id(clean, ["fig9"], there),
        *(run_id(changed_files, ["fig9", "table2"], folder) for folder in (here, there)),
        *(run_id(unknown, ["fig9", "table2"], folder) for folder in (here, there)),
    ]
    assert len({first, *others}) == 6


def test_what_a_server_has_is_not_sent_again(tmp_path: Path) -> None:
    """After a loss of the list of logged results: the first steps are there, by their number."""
    heading = Heading(run_id="a", name="b", job_type="c", tags=())
    with fake_wandb(starting_step=2) as runs, Session() as session:
        run = TrackedRun(session, heading, tmp_path)
        for number in range(4):
            run.result(f"value {number}", {"result/number": number, "measured/none": None})
        run.end({}, exit_code=0)
    assert runs[0].steps == {2: {"result/number": 2}, 3: {"result/number": 3}}


def test_a_run_that_was_reopened_and_stopped_gets_its_end_again(tmp_path: Path) -> None:
    """The stop has written exit code 130, so the same summary is written with its own code."""
    heading = Heading(run_id="a", name="b", job_type="c", tags=())
    with fake_wandb() as runs, Session() as session:
        TrackedRun(session, heading, tmp_path).end({"values": 1, "best": 2}, exit_code=0)
        stopped = TrackedRun(session, heading, tmp_path)
        stopped.result("value 0", {"result/number": 0})
        stopped.stop(130)
        for _ in range(2):
            TrackedRun(session, heading, tmp_path).end({"values": 1, "best": 2}, exit_code=0)
        for _ in range(2):
            TrackedRun(session, heading, tmp_path).end({"values": 1}, exit_code=1)
    assert [run.exit_code for run in runs] == [0, 130, 0, 1]
    assert runs[-1].summary == {"values": 1, "best": None}


def test_launches_see_no_variable_of_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    monkeypatch.setenv("OTHER", "stays")
    before = dict(os.environ)
    with Session() as session:
        during = session.call(lambda _: dict(os.environ), tmp_path)
        assert dict(os.environ) == before
    assert during is not None
    assert "WANDB_RUN_ID" not in during
    assert (during["OTHER"], during["WANDB_SILENT"]) == ("stays", "true")
    assert Path(during["WANDB_DATA_DIR"]) == tmp_path / "wandb"


@pytest.mark.parametrize(("seconds_on_disk", "steps"), [(-1, [0, 1, 2]), (1, [1, 2])])
def test_after_a_kill_only_what_is_on_disk_counts(
    seconds_on_disk: int, steps: list[int], tmp_path: Path
) -> None:
    """wandb writes every few seconds: before or after the first result was noted."""
    heading = Heading(run_id="a", name="b", job_type="c", tags=())
    with fake_wandb(), Session() as session:
        killed = TrackedRun(session, heading, tmp_path)
        killed.result("value 0", {"result/number": 0})
    file = tmp_path / "wandb" / "offline-run-1-a" / "run-a.wandb"
    file.parent.mkdir()
    file.touch()
    written = killed.sent.results["value 0"] + seconds_on_disk
    os.utime(file, (written, written))
    with fake_wandb() as runs, Session() as session:
        run = TrackedRun(session, heading, tmp_path)
        for number in range(3):
            run.result(f"value {number}", {"result/number": number})
        run.end({}, exit_code=0)
    assert list(runs[0].steps) == steps
    with fake_wandb() as runs, Session() as session:
        TrackedRun(session, heading, tmp_path).result("value 0", {"result/number": 0})
    assert runs == []


def test_after_a_kill_a_server_says_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    heading = Heading(run_id="a", name="b", job_type="c", tags=())
    with fake_wandb(), Session() as session:
        killed = TrackedRun(session, heading, tmp_path)
        for number in range(2):
            killed.result(f"value {number}", {"result/number": number})
    with fake_wandb(starting_step=1) as runs, Session() as session:
        run = TrackedRun(session, heading, tmp_path)
        for number in range(3):
            run.result(f"value {number}", {"result/number": number})
    assert list(runs[0].steps) == [1, 2]


def several(folder: Path) -> Path:
    """A folder with a run, a saved study, a file without a form, and files of others."""
    for launch in (1, 2):
        path = folder / "runs" / "one" / f"sppo-{launch}" / records.FILE_NAME
        records.write(record(launch=launch), path)
    saved = store.published_directory() / "sweeps" / "tiny-cpu-device-memory.json"
    (folder / "sweeps").mkdir()
    shutil.copyfile(saved, folder / "sweeps" / "mine.json")
    (folder / "other.json").write_text('{"schema": "sppo-inputs/1"}')
    (folder / "foreign.json").write_text("[1, 2]")
    (folder / "broken.json").write_text('{"schema": "sppo-longest/1"}')
    return folder


def test_a_folder_with_several_says_what_is_logged_and_what_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several(tmp_path)
    with fake_wandb() as runs:
        assert main(["track", str(tmp_path)]) == 1, "broken.json"
        assert len(runs) == 3
        out = capsys.readouterr().out.splitlines()
        (tmp_path / "broken.json").unlink()
        assert main(["track", str(tmp_path), str(tmp_path / "sweeps")]) == 0
        assert len(runs) == 3
    assert len(out) == 4
    assert [line.partition(":")[0] for line in out] == [
        *("not logged", "not logged", "logged", "logged"),
    ]
    assert "broken.json: Object missing required field" in out[0]
    assert out[1].endswith("other.json: wandb has no form for this schema")
    assert out[2].endswith("2 wandb runs, 8 new results")
    assert "foreign" not in "".join(out)


@pytest.mark.soak
def test_every_published_result_has_a_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of every age, and pages; the proofs and the map have no form."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    published = store.published_directory()
    with fake_wandb() as runs:
        assert main(["track", str(published), str(published.parent / "paper"), "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(runs) == sum(entry["new_runs"] for entry in entries)
    without = {entry["path"] for entry in entries if not entry["runs"]}
    assert all("/proofs/" in path or path.endswith("/paper/map.json") for path in without)
    kinds = {entry["kind"] for entry in entries if entry["runs"]}
    assert kinds >= {"run", "sweep", "longest", "limit", "ablation", "tune", "paper", "emulation"}


@pytest.mark.parametrize("kind", ["empty", "absent", "foreign", "none"])
def test_a_folder_without_results_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / kind
    if kind != "absent":
        folder.mkdir()
    if kind == "foreign":
        (folder / "record.json").write_text('{"schema": "other/1"}')
    with fake_wandb() as runs:
        assert main(["track", *([] if kind == "none" else [str(folder)])]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), error[:7], runs) == (1, "error: ", [])
    assert not (folder / "wandb").exists()


def test_a_wandb_that_refuses_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    several(tmp_path)
    monkeypatch.setenv("WANDB_DIR", "/dev/null/x")
    assert main(["track", str(tmp_path / "sweeps")]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("wandb: ")
    assert captured.out.startswith("not logged: ")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["track", str(tmp_path / "sweeps")]) == 2
