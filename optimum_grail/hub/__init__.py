"""What the Hugging Face Hub sees of a compressed model."""
