"""A merged file and its sources -> BenchReport: what a call costs, merged and in every other way."""
