"""The live network: one OpenAI-compatible address over nodes of all tiers."""
