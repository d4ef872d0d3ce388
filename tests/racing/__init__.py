"""Merges to one target at the same time: every order of their steps, kills, and readers meanwhile."""
