"""The emitter, with which rules write graphs, and its counting twin, which prices them."""
