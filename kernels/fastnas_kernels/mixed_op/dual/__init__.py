"""A cell on numbers with a tangent: what everything of second order needs."""
