"""What proves something, and knows no archive: the seal, the chain of the audit log, signatures, timestamps."""
