"""Verification: compares stored assets with what is recorded about them."""
