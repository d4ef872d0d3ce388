"""Sources -> Correspondence: node to node, weight to weight; or NotEquivalent, which says what differs."""
