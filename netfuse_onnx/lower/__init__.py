"""Plan -> Merged: a model without bytes, and a recipe for each weight."""
