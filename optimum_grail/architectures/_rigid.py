"""Why the heads of some families cannot lose dimensions inside: ends of sentences for users."""

NORMED = "its norms of queries and keys divide by a mean over all dimensions of a head, which changes when some go"
NEIGHBOURS = "its rotary positions turn neighbouring dimensions together, not the two halves of a head"
NO_POSITIONS = "it has no rotary positions, and with them no pairs of dimensions that logits are a sum over"
