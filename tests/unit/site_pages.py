"""What a page of the site holds, read by Python's own HTML parser."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "srcset"}
"""Tag -> the attribute that a browser loads without a click."""


@dataclass
class Parsed(HTMLParser):
    """Tags with their attributes, the ids, and the words outside scripts."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if "id" in values:
            self.ids.add(values["id"])

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] != "script":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def links(self) -> list[str]:
        return [values["href"] for tag, values in self.tags if tag == "a"]

    @property
    def images(self) -> list[str]:
        return [values["src"] for tag, values in self.tags if tag == "img"]

    @property
    def loaded(self) -> list[str]:
        """The addresses that a browser loads with the page."""
        return [
            values[LOADED[tag]]
            for tag, values in self.tags
            if tag in LOADED and LOADED[tag] in values
        ]


def parse(data: bytes) -> Parsed:
    page = Parsed()
    page.feed(data.decode())
    page.close()
    return page


def pages(files: Mapping[str, bytes]) -> dict[str, Parsed]:
    return {name: parse(data) for name, data in files.items() if name.endswith(".html")}


def target(page: str, href: str) -> tuple[str, str]:
    """The path below the site's root, and the anchor, that an address on a page leads to."""
    address = urlsplit(href)
    assert not address.scheme, href
    assert not address.netloc, href
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(address.path)))
    return path, address.fragment


def dead_links(files: Mapping[str, bytes]) -> list[str]:
    """Addresses of pages that lead nowhere; an external link is not followed."""
    parsed = pages(files)
    dead = []
    for name, page in parsed.items():
        for href in (*page.links, *page.loaded):
            if href.startswith("https://") or href == "data:,":
                continue
            path, anchor = target(name, href)
            known = path in files and (not anchor or anchor in parsed[path].ids)
            dead += [] if known else [f"{name}: {href}"]
    return dead
