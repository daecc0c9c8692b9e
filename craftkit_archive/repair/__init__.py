"""What was damaged, replaced and kept."""
