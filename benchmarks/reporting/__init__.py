"""Tables, figures and traces of records and simulations.

Read first: `tables.text`, `bar_chart.bar_chart`, `chrome_trace.write_traces`.
"""
