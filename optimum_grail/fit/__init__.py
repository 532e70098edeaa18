"""The compression itself, block by block."""
