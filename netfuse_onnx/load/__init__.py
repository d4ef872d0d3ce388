"""Path -> Source: the graph in normal form, weights as references, opsets, inferred types."""
