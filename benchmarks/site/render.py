"""From a page to HTML, by Jinja2. Every text is escaped; only `Prose` brings HTML of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmarks.file_names import printable
from benchmarks.site.page import Page

TEMPLATES = Path(__file__).with_name("templates")

NAVIGATION = {
    "Answers": "index.html",
    "Runs": "runs/index.html",
    "Studies": "studies/index.html",
    "Paper": "paper/index.html",
    "Timelines": "timelines/index.html",
    "History": "history/index.html",
}
"""Group of pages -> its first page."""


class Renderer:
    """Renders pages of one site. generator: the program and its commit, for the foot."""

    def __init__(self, generator: str) -> None:
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_printable,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
        self._page = environment.get_template("page.html")
        self._common: dict[str, Any] = {
            "navigation": NAVIGATION,
            "generator": generator,
            "newline": Markup("\n"),
        }

    def html(self, page: Page) -> bytes:
        """The page as UTF-8."""
        kinds = {block.kind for block in page.blocks}
        return self._page.render(page=page, kinds=kinds, **self._common).encode()


def _printable(value: Any) -> Any:
    """Foreign text in valid Unicode without control characters; HTML as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
