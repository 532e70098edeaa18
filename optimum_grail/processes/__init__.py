"""Who else takes part in this run? Processes that share the calibration rows, and what they add up and agree on."""
