"""The page of a merged file: one HTML file with its family, graph, plan, proofs and measurements.

    file, reports --material--+
                              +--> sections, scene --build--> templates, filled --> report.html
    merged graph  --graph-----+
                    --layout--+

`groups.py` joins the nodes of the merged graph to the nodes of the source from which they were made,
`graph.py` adds their facts, and `layout.py` gives them places. What templates show beyond the reports is in
`sections.py`, `plots.py` and `snippets.py`. `pages.py`, one level up, connects the page with the verbs.
"""
