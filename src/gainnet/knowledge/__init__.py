"""The knowledge loop: models that learn from private data on ends, through edges, to the cloud and back."""
