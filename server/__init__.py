"""The download endpoint of Craftkit, served from an archive."""

PROGRAM = "craftkit-archive"
