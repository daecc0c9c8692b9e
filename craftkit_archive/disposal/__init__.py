"""What must go: deleted for good, with a tombstone and a certificate."""
