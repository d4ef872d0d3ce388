"""A merged file and its sources -> BenchReport: the time of a call, merged and in every other way."""
