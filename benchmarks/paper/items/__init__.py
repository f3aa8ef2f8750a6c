"""The paper's figures and tables made anew: points with labels, as CSV, drawing and page.

Read first: `item.Item`, `registry.ITEMS`, `files.write_items`.
"""
