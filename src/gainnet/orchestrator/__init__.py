"""GaiRom-ISCC: pools, patterns, prices, plans."""
