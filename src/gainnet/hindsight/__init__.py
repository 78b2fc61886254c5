"""What no matcher can beat on a scenario and seed: the offline optimum over the whole run, relaxed to a linear program."""
