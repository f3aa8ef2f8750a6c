"""Token ids from the files that users have. Formats and flags: `docs/data.md`.

Read first: `formats.open_source`, `source.Source`, `checks.check_ids`.
"""
