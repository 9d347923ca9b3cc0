"""Training with TRL: the trainer's hooks and everything that accompanies them."""
