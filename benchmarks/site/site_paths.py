"""Paths of files that can lie in one folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SitePaths:
    """Paths in use: no file has the path of another file or of a folder.

    Letters of both cases are one, as in a file system that ignores case.
    """

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    def add(self, names: Collection[str]) -> None:
        """Take these paths. Raises ValueError where a path is taken; then none is added."""
        files: set[str] = set()
        folders: set[str] = set()
        for name in names:
            path = name.lower()
            above = set(folders_of(path))
            if path in files | self.files:
                raise ValueError(f"two files of the site have the path {name}")
            if path in folders | self.folders or above & (files | self.files):
                raise ValueError(f"a file and a folder of the site have one path: {name}")
            files.add(path)
            folders |= above
        self.files.update(files)
        self.folders.update(folders)


def folders_of(name: str) -> Iterator[str]:
    """The folders above a path: "a/b" and "a" of "a/b/c"."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
