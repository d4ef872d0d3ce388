"""A merged file and its sources -> VerifyReport: the proofs of bytes, values, graph and isolation.

room.py and seek.py choose the sizes of what is run, widen.py the values."""
