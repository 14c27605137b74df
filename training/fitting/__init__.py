"""A network that learns: first weights, augmentation, steps, and the state of an unfinished training."""
