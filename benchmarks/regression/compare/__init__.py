"""Two commits timed in turns until a verdict is certain, or two run folders side by side.

Read first: `verdict.verdict`, `session.Session`, `run_folders.join`.
"""
