"""Bounded parallel work."""
