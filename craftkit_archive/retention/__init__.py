"""How long renders are kept, and which of them must not be deleted."""
