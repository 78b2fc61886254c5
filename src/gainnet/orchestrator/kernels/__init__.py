"""Compiled kernels of the matchers: every file here holds njit functions only, and the columns they read."""
