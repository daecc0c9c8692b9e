"""Exports that prove themselves: writes, reads and checks them."""
