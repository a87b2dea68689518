"""Data, configurations, files and the training of derived networks."""
