"""Dead letters: finding, choosing, replaying and discarding them."""
