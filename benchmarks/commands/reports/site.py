"""`sppo-bench site`: the committed results as a static site."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Json
from benchmarks.commands.output import show

NEEDS = "the site needs further libraries: pip install '.[site]'"


@dataclass(frozen=True, kw_only=True)
class Site(Json):
    """Write a static site of all published records, the paper's pages and the history.

    Example: sppo-bench site --output site
    """

    output: Annotated[Path, arg(metavar="DIR")]
    """Folder of the site: a new or empty one, or one that this command made."""
    results: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder with published/, paper/ and history/; results/ if not given."""

    def run(self) -> int:
        """Write the site; the exit code, 1 where a record could not be shown. Raises UsageError."""
        from benchmarks.records import store
        from benchmarks.records.provenance import version_text
        from benchmarks.site import folder

        try:
            from benchmarks.site.build import build
        except ModuleNotFoundError as error:
            raise UsageError(f"{NEEDS} ({error.name} is not installed)") from None
        source = self.results or store.results_directory()
        if not source.is_dir():
            raise UsageError(f"no folder {source}; name one with published/ in it by --results DIR")
        with usage_errors(OSError):
            folder.check(self.output)
            self.output.mkdir(parents=True, exist_ok=True)
            site = build(source, version_text())
            folder.write(self.output, site.files)
        for line in site.skipped:
            print(f"not shown: {line}", file=sys.stderr)
        first = self.output / "index.html"
        values = {
            "directory": str(self.output),
            "first_page": str(first),
            "files": sorted(site.files),
            "size_bytes": sum(map(len, site.files.values())),
            "skipped": site.skipped,
        }
        show(self.json, values, f"{len(site.files)} files: open {first}")
        return 1 if site.skipped else 0
