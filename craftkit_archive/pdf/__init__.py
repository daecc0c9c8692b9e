"""Checks whether bytes are a whole PDF, and whether PDF readers open it."""
