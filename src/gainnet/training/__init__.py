"""Learning to orchestrate: environments, rewards, and the training of the learned matchers (extra ``learn``)."""
