"""Exports that prove themselves: made, read and checked."""
