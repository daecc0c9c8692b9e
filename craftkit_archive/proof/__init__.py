"""Proof from outside: who vouches for a text, and since when it exists."""
