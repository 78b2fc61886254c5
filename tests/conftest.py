"""Puts tests/ on the path, for the helpers that several test folders share."""
