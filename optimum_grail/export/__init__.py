"""What runs elsewhere? Compressed checkpoints in the formats of other engines, one file in ``targets/`` for each."""
