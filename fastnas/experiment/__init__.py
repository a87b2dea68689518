"""The whole path from data to a retrained architecture: one of them, several side by side, ready settings."""
