"""Metadata on its way into the catalog."""
