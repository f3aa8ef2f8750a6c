"""A plan, and why it was chosen, in words.

Read first: `card.plan_card`, `reasons.explain`, `wording.ranges`.
"""
