"""Tables of `docs/` that come from committed files or from a plan: made, never typed.

Read first: `pages.TABLES`, `pages.update`.
"""
