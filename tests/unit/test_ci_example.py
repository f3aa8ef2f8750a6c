"""The workflow to copy: it parses, its actions are pinned, its commands and flags exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from benchmarks.cli import COMMANDS
from tests.unit.docs_text import CHECKOUT, FLAG, flags_of

PATH = CHECKOUT / "examples" / "ci" / "regression.yml"
TEXT = PATH.read_text()
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
EXPRESSION = re.compile(r"\$\{\{.*?\}\}")


def workflow() -> dict[Any, Any]:
    """PyYAML reads the key `on` as true, after YAML 1.1."""
    parsed: dict[Any, Any] = yaml.safe_load(TEXT)
    return parsed


def steps() -> list[dict[str, Any]]:
    return [step for job in workflow()["jobs"].values() for step in job["steps"]]


def lines() -> list[str]:
    shell = "\n".join(step["run"] for step in steps() if "run" in step)
    return re.findall(r"sppo-bench .*", shell)


def test_the_workflow_has_its_triggers_and_jobs() -> None:
    parsed = workflow()
    assert set(parsed[True]) == {"pull_request", "schedule", "workflow_dispatch"}
    assert list(parsed["jobs"]) == ["check", "compare", "nightly"]
    assert parsed["permissions"] == {"contents": "read"}
    for job in parsed["jobs"].values():
        assert job["timeout-minutes"] > 0
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_every_action_is_pinned_by_its_commit() -> None:
    used = [line.split("uses: ")[1] for line in TEXT.splitlines() if "uses: " in line]
    assert len(used) == len([step for step in steps() if "uses" in step])
    assert [line for line in used if not PINNED.fullmatch(line)] == []


def test_a_release_has_one_commit() -> None:
    pins = {pin.split("@")[0]: set() for pin in PINNED.findall(TEXT)}
    for pin in PINNED.findall(TEXT):
        pins[pin.split("@")[0]].add(pin)
    assert all(len(commits) == 1 for commits in pins.values())


@pytest.mark.parametrize("line", lines())
def test_every_command_and_flag_exists(line: str) -> None:
    command = line.split()[1]
    assert command in COMMANDS
    assert [flag for flag in FLAG.findall(line) if flag not in flags_of(command)] == []


def test_no_expression_of_github_is_put_into_a_shell() -> None:
    """Names of branches are input: shells read them from variables."""
    assert [step["run"] for step in steps() if EXPRESSION.search(step.get("run", ""))] == []


def test_undecided_is_neutral_and_pull_requests_never_reach_the_gpu_node() -> None:
    jobs = workflow()["jobs"]
    (compare,) = (step["run"] for step in jobs["compare"]["steps"] if "compare" in str(step))
    assert re.search(r'"\$code" -eq 3 \].*?exit 0', compare, re.DOTALL)
    assert compare.rstrip().endswith('exit "$code"')
    assert jobs["nightly"]["if"] == "github.event_name != 'pull_request'"
