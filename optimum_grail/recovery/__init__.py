"""Recovery: short training of a compressed model on what its dense model says."""
