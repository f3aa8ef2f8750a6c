"""The paper's tables 2, 3 and 4.

Read first: `table3.make`, `table4.make`.
"""
