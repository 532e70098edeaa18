"""How fast models are for whoever uses them: checkpoints take turns, each in a process of its own."""
