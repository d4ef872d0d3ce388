"""Passes over the emitted graph, for what depends on the nodes that the rules and conversions emit."""
