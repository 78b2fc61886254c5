"""Environments and training of learned matchers."""
