"""Demand: what is asked of the network, by whom and when."""
