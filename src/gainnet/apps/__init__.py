"""The command line and, later, the live parts."""
