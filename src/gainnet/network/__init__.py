"""The physical network: topology, mobility, radio, sensing, compute, energy."""
