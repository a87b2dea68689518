"""What a search will need, and how to run it within a budget."""
