"""What is given to boxes that have no network."""
