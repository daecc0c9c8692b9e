"""Stored assets against their record."""
