"""What runs through a model: captured block by block, recorded, and summed into moments."""
