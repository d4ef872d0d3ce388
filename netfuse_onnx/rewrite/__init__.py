"""Correspondence -> Correspondence: the graph changes, what it computes does not."""
