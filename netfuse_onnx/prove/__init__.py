"""A merged file and its sources -> VerifyReport: the proofs of bytes, values and graph, and isolation.

sizes.py chooses the sizes of the inputs that are run, coverage.py their values."""
