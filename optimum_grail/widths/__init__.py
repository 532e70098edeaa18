"""Who keeps how much: from a request to units per group."""
