"""Fetches: copies assets from a source into the store."""
