"""A merged file over time: its models taken out again, replaced, added and removed."""
