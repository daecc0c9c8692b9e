"""Retention: how long renders are kept, and which must not be deleted."""
