"""Checkpoints: loading models, tokenizers and plain modules, plan files, folders that are complete or absent."""
