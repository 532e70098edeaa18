"""How models are built: maps are resolved to groups here, and weights changed."""
