"""The stages of a compression: survey, allocate, fit; and the estimate printed before them."""
