"""How ends move: one strategy a file, all with one ``step``."""
