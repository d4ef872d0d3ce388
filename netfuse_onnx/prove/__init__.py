"""A merged file and its sources -> VerifyReport: the proof of bytes and the proof of values."""
