"""What was found, said in several forms."""
