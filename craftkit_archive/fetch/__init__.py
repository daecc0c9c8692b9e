"""Assets on their way into the store."""
