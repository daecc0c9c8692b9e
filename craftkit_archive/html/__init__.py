"""The frame of every HTML page, and the one mechanism that fills it."""
