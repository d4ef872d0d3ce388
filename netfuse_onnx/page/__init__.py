"""The page of a merged file: one HTML file with its family, graph, plan, proofs and measurements.

    facts  --+
    graph  --+--> build: Jinja2 templates of this package, filled --> report.html
    proofs --+

`graph.py` joins the nodes of the merged graph to the nodes of the source from which they were made, and
`layout.py` gives them places. `proven.py`, `planned.py` and `measured.py` have the rows of the sections,
`snippets.py` the ways to run the file.
"""
