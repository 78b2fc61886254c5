"""Images drawn for requests: the embedded engine's sibling, for models that remove noise step by step."""
