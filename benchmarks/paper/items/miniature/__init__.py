"""Second panels of fig. 7, 10, 11 and 12: measured in miniature, beside the simulated panel.

Read first: `panel.with_miniature`, `signs.sign_of`.
"""
