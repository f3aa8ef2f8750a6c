"""What a page of documentation says: its prose, and the paths, commands and flags in it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, is_dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import get_args, get_type_hints

from tyro.conf import Positional, arg

from benchmarks.cli import COMMANDS, SCRIPTS
from benchmarks.docs.pages import BLOCK

CHECKOUT = Path(__file__).parents[2]
ROOT_PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
PAGES = [
    *(CHECKOUT / name for name in ROOT_PAGES),
    *sorted((CHECKOUT / "docs").glob("*.md")),
]
MOST_WORDS = 25

TOP_FOLDERS = "sppo|baselines|benchmarks|tests|docs|results|examples"
PATH = re.compile(rf"(?<![\w/.:-])(?:{TOP_FOLDERS})/[\w/.<>*{{}}-]*[\w/>*}}-]")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
MADE_BY_COMMANDS = ("results/runs", "results/cache", "results/history", "results/tuning")
POSITIONAL = get_args(Positional[str])[1]
PLACEHOLDER = re.compile(r"[<*{]|\b[A-Z][A-Z-]+\b|\bDIR\b")
OUR_PROGRAMS = (
    "benchmarks.docs.__main__",
    "benchmarks.regression.targets.timed",
    "tests.soak.device_limits",
    "tests.soak.noise",
    "tests.soak.planted_faults",
)


@dataclass(frozen=True)
class Sentence:
    """A sentence of a page and the line that it begins on."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """Its words; code and the text of a link count as they are read."""
        return len(re.findall(r"\S*\w\S*", self.text))


def sentences(text: str) -> Iterator[Sentence]:
    """The prose of a page: no tables, headings, code blocks, comments; a list item is a text."""
    for line, paragraph in _paragraphs(text):
        readable = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
        readable = SPAN.sub(lambda span: "`" + re.sub(r"\s+", "_", span[1]) + "`", readable)
        start = 0
        for end in re.finditer(r"(?<!\bfig)(?<!\bsec)[.!?][)\"'*]*(?=\s+\S)|$", readable):
            sentence = readable[start : end.end()]
            if sentence.strip():
                offset = len(sentence) - len(sentence.lstrip())
                yield Sentence(
                    line + readable[: start + offset].count("\n"), " ".join(sentence.split())
                )
            start = end.end()


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """First line and text of every paragraph and list item."""
    first, lines = 0, list[str]()
    fenced = comment = False
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.startswith("```"):
            fenced = not fenced
        if line.startswith("<!--"):
            comment = True
        item = re.match(r"\s*(?:[-*]|\d+\.) ", line)
        indented = line.startswith("    ") and not lines and not item
        is_prose = bool(line.strip()) and not (
            fenced or comment or indented or line.startswith(("|", "#", "```"))
        )
        if "-->" in line:
            comment = False
        if lines and (item or not is_prose):
            yield first, "\n".join(lines)
            lines = []
        if is_prose:
            if not lines:
                first = number
            lines.append(line[item.end() :] if item else line)


def long_sentences(text: str, name: str) -> list[str]:
    """Sentences of more than MOST_WORDS words, as "file:line: words: sentence"."""
    return [
        f"{name}:{sentence.line}: {sentence.words} words: {sentence.text}"
        for sentence in sentences(text)
        if sentence.words > MOST_WORDS
    ]


def wrong_paths(text: str, folder: Path = CHECKOUT) -> list[str]:
    """Paths of the tree, and targets and headings of links, that are not there."""
    wrong = [name for name in PATH.findall(text) if not _is_there(name)]
    for target in LINK.findall(text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        page = folder / name if name else None
        is_missing = page is not None and not page.exists()
        if is_missing or (heading and heading not in _headings(page.read_text() if page else text)):
            wrong.append(target)
    return wrong


def _is_there(name: str) -> bool:
    if name.startswith(MADE_BY_COMMANDS):
        return True
    parts = name.rstrip(".").split("/")
    known = next((i for i, part in enumerate(parts) if PLACEHOLDER.search(part)), len(parts))
    return (CHECKOUT / "/".join(parts[:known])).exists()


def _headings(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def wrong_commands(text: str) -> list[str]:
    """Commands of sppo-bench and modules of `python -m` that are not there."""
    asked = re.findall(r"sppo-bench ([a-z][\w-]*)", "\n".join(_code(text)))
    wrong = [f"sppo-bench {name}" for name in asked if name not in COMMANDS]
    modules = re.findall(r"-m ((?:benchmarks|baselines|sppo|tests)[\w.]*)", text)
    return wrong + [name for name in modules if importlib.util.find_spec(name) is None]


def wrong_flags(text: str) -> list[str]:
    """Flags that their command does not have; without a command, flags that no program has."""
    wrong = []
    for line in _code(text):
        flags = FLAG.findall(line)
        command = re.match(r"\$?\s*(?:python3? -m )?([\w.-]+)(?: ([a-z][\w-]*)( [a-z]+)?)?", line)
        if not flags:
            continue
        if line.lstrip().startswith("-"):
            known = every_flag()
        elif command and command[1] in ("sppo-bench", "benchmarks") and command[2] in COMMANDS:
            two_words = f"{command[2]}{command[3]}"
            known = flags_of(two_words if two_words in SCRIPTS else command[2])
        elif command and (program := _program(command[1])):
            known = flags_of_program(program)
        else:
            continue
        wrong += [f"{flag} in {line.strip()}" for flag in flags if flag not in known]
    return wrong


def _code(text: str) -> Iterator[str]:
    """Lines of indented and fenced code, and code spans."""
    fenced = False
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip().split("  #")[0]
        else:
            yield from SPAN.findall(line)


def _program(module: str) -> str | None:
    names = (module, f"{module}.__main__")
    return next((name for name in names if name in OUR_PROGRAMS), None)


@cache
def flags_of(command: str) -> frozenset[str]:
    """Flags of a command of sppo-bench, from the fields and aliases of its dataclass."""
    module, name = {**COMMANDS, **SCRIPTS}[command].split(":")
    return _flags_of_class(getattr(importlib.import_module(f"benchmarks.commands.{module}"), name))


def _flags_of_class(kind: type) -> frozenset[str]:
    """Flags of a dataclass; of a field with actions, those of all actions."""
    flags = {"--help"}
    for field, annotation in get_type_hints(kind, include_extras=True).items():
        name = field
        if POSITIONAL in get_args(annotation)[1:]:
            continue
        choices = get_args(next(iter(get_args(annotation)), None))
        actions = [next(iter(get_args(choice)), None) for choice in choices]
        if actions and all(map(is_dataclass, actions)):
            flags |= frozenset().union(*map(_flags_of_class, actions))
            continue
        for metadata in get_args(annotation)[1:]:
            if isinstance(metadata, type(arg())):
                name = metadata.name or name
                flags |= set(metadata.aliases or ())
        flags.add(f"--{name.replace('_', '-')}")
    return frozenset(flags)


@cache
def flags_of_program(module: str) -> frozenset[str]:
    """Flags of a program of ours, from its help."""
    written, before = StringIO(), sys.argv
    sys.argv = [module, "--help"]
    try:
        with redirect_stdout(written), suppress(SystemExit):
            importlib.import_module(module).main()
    finally:
        sys.argv = before
    return frozenset(FLAG.findall(written.getvalue()))


def every_flag() -> frozenset[str]:
    """Flags of every command and program."""
    commands = (flags_of(name) for name in COMMANDS)
    programs = (flags_of_program(name) for name in OUR_PROGRAMS)
    return frozenset().union(*commands, *programs)


def generated_table(page: str, name: str) -> str:
    """The table of this name as a page of docs/ has it."""
    text = (CHECKOUT / "docs" / page).read_text(encoding="utf-8")
    (table,) = (block["table"] for block in BLOCK.finditer(text) if block["name"] == name)
    return str(table).removesuffix("\n")
