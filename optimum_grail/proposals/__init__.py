"""What could a map say? Blocks, chains, heads and streams of a model without a map, found by watching it run."""
