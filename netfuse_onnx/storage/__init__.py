"""Weights stay in their files: this package finds, reads, compares, rearranges and copies their bytes."""
