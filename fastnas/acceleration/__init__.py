"""Foreign supernets on the engine of fastnas, with their parameters, buffers and names left where they are."""
