"""A merged file and its sources -> VerifyReport: the proof of bytes and the proof of values.

room.py and seek.py choose the sizes of what is run."""
