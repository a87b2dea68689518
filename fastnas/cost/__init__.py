"""What an architecture costs."""
