"""Weight-sharing networks and the networks that are derived from them."""
