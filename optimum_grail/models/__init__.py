"""What knows the structure of modules: maps resolved, weights changed, checkpoints loaded."""
