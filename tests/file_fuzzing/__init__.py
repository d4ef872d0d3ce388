"""Mutations of real small files, run through the commands in children with limits. See tests/fuzz_files.py."""
