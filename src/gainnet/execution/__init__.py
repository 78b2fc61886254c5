"""Carrying plans out: simulated here, live elsewhere."""
