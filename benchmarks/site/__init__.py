"""The results as a static site: pages as data, charts by Plotly, HTML by Jinja2.

Read first: `page.Page`, `document.Document`, `build.build`, `folder.write`.
"""
