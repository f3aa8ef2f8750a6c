"""A plan, and why it was chosen, in words.

Read first: `card.card`, `reasons.explain`, `wording.SENTENCES`.
"""
