"""Generative models that answer requests here: the embedded engine."""
