"""What may be asked: the configuration, its options and values, presets, names to methods."""
