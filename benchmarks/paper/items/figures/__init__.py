"""The paper's figures.

Read first: `fig1.make`, `fig10.make`.
"""
