"""Tokens that a user's text never needs leave a model: its embedding, its head and its tokenizer."""
