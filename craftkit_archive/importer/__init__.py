"""Imports of metadata into the catalog."""
