"""A sample index and all that a first try needs."""
