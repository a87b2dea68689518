"""The oracle: whether an architecture gets the gradient that its method claims, measured against the losses' values."""
