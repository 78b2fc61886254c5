"""What generative models are and cost."""
